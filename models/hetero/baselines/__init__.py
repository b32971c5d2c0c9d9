"""Simple methods on graphs that models are compared with; they share nothing with a model but its input."""
