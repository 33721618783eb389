"""Equal constants share one buffer.

    constant a: bytes X            becomes      constants a, b: the same buffer
    constant b: bytes X

Shape and type of a and b may differ, bytes are all that is shared. The empty shape of a scalar, no
bytes, stays a constant: taken for none, it would make what is reshaped dynamic, and TFLite would
give that new memory at every run and keep XNNPACK away from the graph.

Equal tables and vectors of the flatbuffer are left to the target, which writes them once
(`larq_ensemble.convert.targets.lce`).
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from larq_ensemble.convert.ir.graph import Module


def run(module: Module) -> Counter[str]:
    """Counts `shared_buffers`, the buffers that are left over."""
    first: dict[bytes, np.ndarray] = {}
    buffers: dict[int, np.ndarray] = {}
    for graph in module.graphs:
        for tensor in graph.tensors:
            if tensor.data is not None:
                buffers[id(tensor.data)] = tensor.data
                tensor.data = first.setdefault(tensor.data.tobytes(), tensor.data)
    return Counter(shared_buffers=len(buffers) - len(first))
