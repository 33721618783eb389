"""The passes, one per file: `run(module)` edits a module in place and returns counts.

Each docstring shows the pattern that the pass looks for and what replaces it, and says what it
leaves alone and why the result is the same. `larq_ensemble.convert.pipeline` has their order.
"""
