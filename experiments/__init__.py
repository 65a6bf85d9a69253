"""Runs that put the commands together."""
