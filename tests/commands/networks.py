"""MindSpore networks that the tests of this folder share."""

NETWORKS: dict = {}
"""By configuration, number of classes and role."""
