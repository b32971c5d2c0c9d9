"""Heterogeneous graphs in memory: tasks, splits, features, metrics."""
