"""Chooses the layout where `"auto"` was asked for.

`"subgraphs"` if members own filters that can be bit-packed there
(`larq_ensemble.convert.passes.bit_packed_convolutions`), else `"indexed"`, which is smaller.

Left alone: any other layout.
"""

from __future__ import annotations

from collections import Counter

from larq_ensemble.convert.passes.bit_packed_convolutions import matches
from larq_ensemble.ir.graph import Module


def run(module: Module) -> Counter[str]:
    """Counts nothing."""
    if module.layout == "auto":
        are_own = (match.filters.data is None for match in matches(module.graph))
        module.layout = "subgraphs" if any(are_own) else "indexed"
    return Counter()
