"""Keras ensembles of a backbone: building, schemes, execution."""
