"""Computes operators that depend on constants only.

    constant -> SPLIT_V -> ADD(constant) -> y         becomes         constant y

In the layouts `"subgraphs"` and `"branches"` a member's multipliers and biases come out of one
table in this way. The patterns of convolutions need their values.

Left alone: what there is no kernel for in `larq_ensemble.ir.evaluation`, and operators whose results
take more bytes than what they read, such as the heads' conversion from int8 and the repetition of
vectors for long rows: they would only make a file larger.

Exact: the kernels compute in the tensors' types.
"""

from __future__ import annotations

from larq_ensemble.ir.evaluation import KERNELS, UnknownOperatorError
from larq_ensemble.ir.graph import Graph, Operator, as_bytes

#: LceDequantize of constants has a pattern of its own, which stores bits or bytes.
_LEFT = {"DEQUANTIZE", "LceDequantize"}


def fold(graph: Graph) -> int:
    """Turns what depends on constants only into constants, and counts the operators."""
    kept = [op for op in graph.operators if not _fold(op)]
    folded = len(graph.operators) - len(kept)
    if folded:
        graph.rebuild(kept)
    return folded


def _fold(op: Operator) -> bool:
    if op.name not in KERNELS or op.name in _LEFT or not op.operands:
        return False
    if any(tensor.data is None for tensor in op.operands):
        return False
    try:
        results = KERNELS[op.name](op, [tensor.values for tensor in op.operands])
    except UnknownOperatorError:
        return False
    if sum(values.nbytes for values in results) > sum(t.data.nbytes for t in op.operands):
        return False
    for tensor, values in zip(op.outputs, results, strict=True):
        tensor.data = as_bytes(values)
    return True
