"""The family of knowledge-graph embeddings."""
