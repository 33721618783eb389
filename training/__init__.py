"""Data, recipes, pretraining, ensemble training and evaluation."""
