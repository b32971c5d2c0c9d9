"""The family NET3."""
