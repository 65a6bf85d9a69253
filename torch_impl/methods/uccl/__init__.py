"""UCCL, UniMatch and FixMatch."""
