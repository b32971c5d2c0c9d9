"""Models, losses, samplers, optimisers and ranking metrics: torch and numba; no SQL, no files."""
