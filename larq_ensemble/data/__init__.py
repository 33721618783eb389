"""Data sets with the constants that travel with every run trained on them."""
