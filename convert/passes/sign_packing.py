"""Packs tables of signs, int8 values +1 and -1, into one bit each.

    table int8 [m, ..., n] -> GATHER -> CAST -> float32 [..., n]

becomes

    table int32 [m, ..., ceil(n / 32)] -> GATHER -> LceDequantize -> float32 [..., n]

The last axis is packed as LCE packs it: channel c is bit `c mod 32` of word `c // 32`, set for -1.

Left alone: tables with other values, tables that something else reads too, lookups of several rows,
and casts to anything but float32.

Exact: LceDequantize yields +1.0 and -1.0, as CAST does.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from larq_ensemble.ir.graph import Module


def run(module: Module) -> Counter[str]:
    """Counts `packed_tables`."""
    graph, count = module.graph, 0
    for cast in graph.find("CAST"):
        lookup = graph.producer(cast.inputs[0], "GATHER")
        if lookup is None:
            continue
        table, row = lookup.operands[0], lookup.outputs[0]
        if (
            table.dtype != "int8"
            or table.data is None
            or graph.uses(table) != 1
            or graph.uses(row) != 1
            or row.shape != table.shape[1:]
            or cast.outputs[0].dtype != "float32"
            or not (np.abs(table.values) == 1).all()
        ):
            continue
        shape = table.shape
        table.set_values(bit_packed(table.values))
        row.dtype, row.shape = table.dtype, table.shape[1:]
        cast.outputs[0].shape = shape[1:]
        graph.rewrite(cast, name="LceDequantize", custom_options=b"")
        count += 1
    return Counter(packed_tables=count)


def bit_packed(signs: np.ndarray) -> np.ndarray:
    """int32 `[..., ceil(n / 32)]` from +1 and -1 `[..., n]`."""
    missing = [(0, 0)] * (signs.ndim - 1) + [(0, -signs.shape[-1] % 32)]
    bits = np.packbits(np.pad(signs < 0, missing), axis=-1, bitorder="little")
    return bits.view("<i4")
