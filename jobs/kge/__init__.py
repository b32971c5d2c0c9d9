"""Knowledge-graph embeddings: the family and its tasks."""
