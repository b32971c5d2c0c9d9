"""Training on classes, on links and without a target."""
