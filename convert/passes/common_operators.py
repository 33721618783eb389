"""Computes once what a graph computes twice from the same tensors.

    constant -> CAST -> y         becomes      constant -> CAST -> y, for all that read z
    equal constant -> CAST -> z

In the layout `"branches"` all members have the same filters and borders, which files for stock
runtimes compute from smaller constants.

Left alone: the outputs of the graph.

Exact: operators have no state.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from larq_ensemble.ir.graph import Graph, Module, Operator, Tensor, substituted
from larq_ensemble.ir.schema import table_key


def run(module: Module) -> Counter[str]:
    """Counts `common_operators`, those that are no longer needed."""
    return Counter(common_operators=sum(map(_merge, module.graphs)))


def _merge(graph: Graph) -> int:
    """Removes operators, and returns how many."""
    same = _equal_constants(graph)
    first: dict[Any, Operator] = {}
    kept: list[Operator] = []
    for op in graph.operators:
        op = substituted(op, same)
        outputs = tuple((t.shape, t.dtype, table_key(t.quantization)) for t in op.outputs)
        key = op.name, op.version, op.inputs, outputs, table_key(op.options), op.custom_options
        known = first.setdefault(key, op)
        if known is op or not set(op.outputs).isdisjoint(graph.outputs):
            kept.append(op)
        else:
            same.update(zip(op.outputs, known.outputs, strict=True))
    removed = len(graph.operators) - len(kept)
    graph.rebuild(kept)
    graph.eliminate_dead_code()
    return removed


def _equal_constants(graph: Graph) -> dict[Tensor, Tensor]:
    """Each constant that an earlier one equals in all that it is, with that one."""
    first: dict[Any, Tensor] = {}
    same: dict[Tensor, Tensor] = {}
    for tensor in graph.tensors:
        if tensor.data is not None:
            fields = vars(tensor).items()
            key = tuple((name, table_key(value)) for name, value in fields)
            known = first.setdefault(key, tensor)
            if known is not tensor:
                same[tensor] = known
    return same
