"""Dataflow operators, plans, training, checkpoints and executors."""
