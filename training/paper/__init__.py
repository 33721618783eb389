"""Reproduces the tables and figures of Kim et al. 2022."""
