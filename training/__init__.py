"""Training of run directories on data sets: recipes, backbones, ensembles, evaluation, tuning."""
