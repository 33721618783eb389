"""Computes operators that depend on constants only.

    constant -> SPLIT_V -> ADD(constant) -> y         becomes         constant y

In the layouts `"subgraphs"` and `"branches"` a member's multipliers and biases come out of one
table in this way. The patterns of convolutions need their values.

Left alone: what there is no kernel for in `larq_ensemble.ir.evaluation`, and operators whose
results are larger than what they read (CAST of int8, TILE): the file would grow.

Exact: the kernels compute in the tensors' types.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from larq_ensemble.ir.evaluation import KERNELS, UnknownOperatorError
from larq_ensemble.ir.graph import Graph, Operator, as_bytes


def fold(graph: Graph) -> int:
    """Turns what depends on constants only into constants, and counts the operators."""
    kept = [op for op in graph.operators if not _fold(op)]
    folded = len(graph.operators) - len(kept)
    if folded:
        graph.rebuild(kept)
    return folded


def _fold(op: Operator) -> bool:
    if op.name not in KERNELS or not op.operands:
        return False
    values = [tensor.values for tensor in op.operands if tensor.data is not None]
    if len(values) < len(op.operands):
        return False
    try:
        results = KERNELS[op.name](op, values)
    except UnknownOperatorError:
        return False
    if _bytes(results) > _bytes(values):
        return False
    for tensor, result in zip(op.outputs, results, strict=True):
        tensor.data = as_bytes(result)
    return True


def _bytes(arrays: Sequence[np.ndarray]) -> int:
    return sum(array.nbytes for array in arrays)
