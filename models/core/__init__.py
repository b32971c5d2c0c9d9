"""Shared by the models of all families: options, device, threads, embedding tables, AdamW, early stopping, ranking."""
