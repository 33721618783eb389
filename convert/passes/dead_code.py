"""Dead-code elimination: what no output of its graph depends on.

Dropped are operators and tensors. Inputs stay, and so do all outputs of an operator of which one is
needed.
"""

from __future__ import annotations

from collections import Counter

from larq_ensemble.convert.ir.graph import Module


def run(module: Module) -> Counter[str]:
    """Counts `dead_operators`."""
    before = sum(len(graph.operators) for graph in module.graphs)
    for graph in module.graphs:
        graph.eliminate_dead_code()
    return Counter(dead_operators=before - sum(len(graph.operators) for graph in module.graphs))
