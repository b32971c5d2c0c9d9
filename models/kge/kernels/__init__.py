"""Fused CPU kernels of knowledge-graph embeddings."""
