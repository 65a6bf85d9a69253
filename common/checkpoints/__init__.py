"""Checkpoint files: formats, the layouts of other programs, and what a file holds."""
