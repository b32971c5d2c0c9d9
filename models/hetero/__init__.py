"""Graphs of typed nodes and edges: the in-memory graph, metrics and baselines."""
