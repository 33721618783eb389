"""Turns lookups in tables of one row back into constants.

    table [1, ...] --------------> GATHER -> value        becomes        value = table[0]
    min(number, 0) ------------------^

The front end hides a constant in this way where LCE's converter would fold it into something wrong
or larger (`larq_ensemble.convert.frontend.workarounds`).

Left alone: tables of several rows, lookups along another axis or of several rows, and lookups whose
index is not computed by MINIMUM.

Exact: a table of one row can only be read at 0.
"""

from __future__ import annotations

from collections import Counter

from larq_ensemble.ir.graph import Module


def run(module: Module) -> Counter[str]:
    """Counts `revealed_constants`."""
    graph, count = module.graph, 0
    for lookup in graph.find("GATHER"):
        table, index = lookup.operands
        if (
            graph.producer(index, "MINIMUM") is None
            or table.data is None
            or lookup.outputs[0].size != table.size
            or table.shape[0] != 1
            or (lookup.options and (lookup.options.axis or lookup.options.batchDims))
        ):
            continue
        lookup.outputs[0].data = table.data
        graph.erase(lookup)
        count += 1
    return Counter(revealed_constants=count)
