"""Data sets: images, labels, splits, normalization."""
