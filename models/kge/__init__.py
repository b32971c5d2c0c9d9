"""Knowledge-graph embeddings: batches, losses, engine, ranking."""
