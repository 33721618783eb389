"""Graph transformations, one a file: `run(module)` changes a module in place and counts.

Each docstring says which pattern a pass looks for, what it puts in its place, what it leaves alone,
and why the result is the same. Their order stands in `larq_ensemble.convert.pipeline`.
"""
