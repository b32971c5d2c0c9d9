"""DHAN: dual hierarchical attention over bi-typed graphs."""
