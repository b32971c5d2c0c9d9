"""Graphs of typed nodes and edges: roles, node and edge tables, features, metapaths, report."""
