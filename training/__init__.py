"""Training on data sets: pipeline, recipes, backbones, ensembles, evaluation, tuning."""
