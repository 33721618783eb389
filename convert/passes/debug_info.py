"""Strips what only people read: names, the description, empty quantization tables.

The SignatureDef keeps the names of inputs and outputs. Quantization with a scale or a range stays.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from larq_ensemble.ir.graph import Module


def run(module: Module) -> Counter[str]:
    """Counts nothing."""
    module.description = None
    for graph in module.graphs:
        graph.name = None
        for tensor in graph.tensors:
            tensor.name = tensor.shape_signature = None
            if _is_empty(tensor.quantization):
                tensor.quantization = None
    return Counter()


def _is_empty(quantization: Any) -> bool:
    return quantization is not None and not any(map(np.any, vars(quantization).values()))
