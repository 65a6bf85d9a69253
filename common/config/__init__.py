"""Configurations: their keys, how they are read strictly, and the layers they are composed of."""
