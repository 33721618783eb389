"""Dead-code elimination: drops operators and tensors that no output of their graph depends on.

Left alone: inputs, and all outputs of an operator if one of them is needed.
"""

from __future__ import annotations

from collections import Counter

from larq_ensemble.ir.graph import Module


def run(module: Module) -> Counter[str]:
    """Counts `dead_operators`."""
    before = sum(len(graph.operators) for graph in module.graphs)
    for graph in module.graphs:
        graph.eliminate_dead_code()
    return Counter(dead_operators=before - sum(len(graph.operators) for graph in module.graphs))
