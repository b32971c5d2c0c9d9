"""What the models of all families share: options, device and threads, AdamW with averaged weights, early stopping."""
