"""Palettes, pictures, charts and pages."""
