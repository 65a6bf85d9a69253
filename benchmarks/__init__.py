"""Measured runs: each command writes one dated file with the machine it ran on."""
