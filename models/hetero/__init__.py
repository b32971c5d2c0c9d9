"""Heterogeneous graphs: the graph in memory, tasks, splits, features, metrics."""
