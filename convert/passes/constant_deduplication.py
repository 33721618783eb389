"""Lets equal constants share one buffer.

    constant a: bytes X            becomes      constants a, b: the same buffer
    constant b: bytes X

Only the bytes are shared: a and b may differ in shape and type. An empty constant, such as the
shape of a scalar, stays a constant. Without it the output of the RESHAPE would be dynamic: TFLite
would allocate it anew at every run and not delegate the graph to XNNPACK.

Equal tables and vectors of the flatbuffer are left to the target, which writes them once
(`larq_ensemble.convert.targets.lce`).
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from larq_ensemble.ir.graph import Module


def run(module: Module) -> Counter[str]:
    """Counts `shared_buffers`, the buffers that are no longer needed."""
    first: dict[bytes, np.ndarray] = {}
    buffers: dict[int, np.ndarray] = {}
    for graph in module.graphs:
        for tensor in graph.tensors:
            if tensor.data is not None:
                buffers[id(tensor.data)] = tensor.data
                tensor.data = first.setdefault(tensor.data.tobytes(), tensor.data)
    return Counter(shared_buffers=len(buffers) - len(first))
