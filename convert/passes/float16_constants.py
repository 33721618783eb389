"""Stores large constants of ADD and MUL as float16 where that loses nothing.

    constant float32 -> ADD or MUL      becomes      constant float16 -> DEQUANTIZE -> ADD or MUL

DEQUANTIZE converts a constant once, at the interpreter's first run.

Left alone: constants below 512 bytes, where the operator costs more bytes than it saves; constants
with a value that float16 can't hold; constants that another kind of operator reads.

Exact: float32 holds every float16.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np

from larq_ensemble.ir.graph import Graph, Module, Operator, Tensor, as_bytes

_LEAST_BYTES = 512
#: The first version of DEQUANTIZE that takes float16.
_DEQUANTIZE_VERSION = 3


def run(module: Module) -> Counter[str]:
    """Counts `float16_constants`."""
    graph = module.graph
    conversions = []
    for tensor in list(graph.tensors):
        halves = _as_halves(graph, tensor)
        if halves is None:
            continue
        half = graph.add(dataclasses.replace(tensor, dtype="float16", data=as_bytes(halves)))
        tensor.data = None
        conversions.append(Operator("DEQUANTIZE", (half,), (tensor,), version=_DEQUANTIZE_VERSION))
    graph.rebuild([*conversions, *graph.operators])
    return Counter(float16_constants=len(conversions))


def _as_halves(graph: Graph, tensor: Tensor) -> np.ndarray | None:
    """A constant's values as float16; `None` if it has to stay as it is."""
    if (
        tensor.data is None
        or tensor.dtype != "float32"
        or tensor.data.nbytes < _LEAST_BYTES
        or any(op.name not in ("ADD", "MUL") for op in graph.consumers(tensor))
    ):
        return None
    with np.errstate(over="ignore"):
        halves = tensor.values.astype(np.float16)
    return halves if (halves == tensor.values).all() else None
