"""What models of all families share: device, option checks, AdamW with averaged weights."""
