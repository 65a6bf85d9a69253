"""Pixels: resizing, geometry, colour, mixing."""
