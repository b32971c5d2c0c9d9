"""What a forecast or a recovery is compared with."""
