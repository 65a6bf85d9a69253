"""Data sets: images, labels and lists, from files or drawn."""
