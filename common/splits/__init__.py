"""``python -m common.splits``: which training images are labelled."""
