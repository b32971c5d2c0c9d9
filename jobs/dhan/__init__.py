"""The family DHAN."""
