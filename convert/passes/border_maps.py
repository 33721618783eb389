"""Stores constant maps whose rows and columns repeat by those that differ.

    constant [1, h, w, c] -> ADD

becomes, with r different rows, which have k different columns,

    constant [1, r, k, c] -> GATHER [1, r, w, c] -> GATHER [1, h, w, c] -> ADD

Binary convolutions of zero-padded maps need such constants in files for stock runtimes: what they
add differs only at the borders, so r and k are 3 at most for a 3x3 window. The two lookups run at
every inference.

Left alone: constants where this saves less than 512 bytes.

Exact: the lookups give the constant's bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from larq_ensemble.ir.graph import Graph, Module, Operator, Tensor
from larq_ensemble.ir.schema import options

_LEAST_SAVED_BYTES = 512


def run(module: Module) -> Counter[str]:
    """Counts `border_maps`."""
    count = 0
    for graph in module.graphs:
        lookups: list[Operator] = []
        maps = [tensor for op in graph.find("ADD") for tensor in op.operands if _is_map(tensor)]
        for tensor in dict.fromkeys(maps):
            found = [*_lookups(graph, tensor)]
            lookups += found
            count += bool(found)
        graph.rebuild(graph.operators, lookups)
    return Counter(border_maps=count)


def _is_map(tensor: Tensor) -> bool:
    return tensor.data is not None and len(tensor.shape) == 4 and tensor.shape[0] == 1


def _lookups(graph: Graph, tensor: Tensor) -> Iterator[Operator]:
    """The operators that compute a map, which is no constant any more; none if it stays one."""
    # As integers, so that 0 and -0 differ.
    bits = tensor.values.view(f"uint{8 * tensor.values.itemsize}")
    rows, row = np.unique(bits, axis=1, return_inverse=True)
    columns, column = np.unique(rows, axis=2, return_inverse=True)
    needed = columns.nbytes + 4 * (row.size + column.size)
    if bits.nbytes - needed < _LEAST_SAVED_BYTES:
        return
    different = columns.view(tensor.values.dtype)
    tensor.data = None
    wide = graph.add(Tensor((*rows.shape[:2], *tensor.shape[2:]), tensor.dtype))
    for axis, values, index, output in (
        (2, graph.add(Tensor.constant(different)), column, wide),
        (1, wide, row, tensor),
    ):
        numbers = graph.add(Tensor.constant(index.reshape(-1).astype(np.int32)))
        lookup = options("GatherOptions", axis=axis)
        yield Operator("GATHER", (values, numbers), (output,), lookup)
