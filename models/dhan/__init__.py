"""DHAN: dual hierarchical attention over graphs with several node types."""
