"""Stores the filters of a quantized network's convolutions with 4 bits, where they had 8.

Looks for CONV_2D by constant int8 filters with a scale for each filter. The first convolution of a
graph, which reads the image, stays as it is, and so does the linear layer: both are small, and lose
most.

A filter gets the scale s that makes the squared error of round(w / s) s the least, of `_SCALES`
shares of the largest weight: with 15 steps, clipping a few large weights costs less than coarse
steps for all. Its bias, which counts in products of a scale of the input and one of the filter,
follows.

TFLite's kernel unpacks the filters at each run and computes in int8.
"""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np

from larq_ensemble.ir.graph import Graph, Module, Operator, Tensor

#: The largest number of 4 bits; the least is one less than its negative.
LARGEST = 7
_SCALES = np.linspace(0.3, 1.0, 36)
#: Of CONV_2D, the first that may have filters of 4 bits.
_VERSION = 7


def run(module: Module) -> Counter[str]:
    """Counts `four_bit_filters`."""
    counts: Counter[str] = Counter()
    for graph in module.graphs:
        for op in graph.find("CONV_2D")[1:]:
            if _matches(op):
                _rewrite(graph, op)
                counts["four_bit_filters"] += 1
    return counts


def nearest(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers and scales that come closest to some filters.

    # Arguments
        weights: float `[out, ...]`.

    # Returns
        int8 `[out, ...]` from -8 to 7, and a scale for each filter, float32 `[out]`.
    """
    rows = weights.reshape(len(weights), -1)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    largest[largest == 0] = 1
    best = np.full(len(rows), np.inf)
    scales = np.ones((len(rows), 1))
    for share in _SCALES:
        tried = share * largest / LARGEST
        error = ((_rounded(rows, tried) * tried - rows) ** 2).sum(axis=1)
        scales = np.where((error < best)[:, np.newaxis], tried, scales)
        best = np.minimum(error, best)
    numbers = _rounded(rows, scales).astype(np.int8).reshape(weights.shape)
    return numbers, scales[:, 0].astype(np.float32)


def _rounded(rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.clip(np.round(rows / scales), -LARGEST - 1, LARGEST)


def _matches(op: Operator) -> bool:
    filters = op.operands[1]
    return (
        op.operands[0].dtype == "int8"
        and filters.dtype == "int8"
        and filters.data is not None
        and len(filters.quantization.scale) == filters.shape[0]
    )


def _rewrite(graph: Graph, op: Operator) -> None:
    x, filters, *bias = op.operands
    before = np.asarray(filters.quantization.scale, np.float64)
    weights = filters.values * before[:, np.newaxis, np.newaxis, np.newaxis]
    numbers, scales = nearest(weights)
    inputs = [x, _with_scales(Tensor(filters.shape, "int4", _packed(numbers)), filters, scales)]
    for tensor in bias:
        integers = np.round(tensor.values * (before / scales)).astype(tensor.dtype)
        factor = np.float64(x.quantization.scale[0])
        inputs.append(_with_scales(Tensor.constant(integers), tensor, factor * scales))
    for tensor in inputs[1:]:
        graph.add(tensor)
    graph.rewrite(op, inputs=inputs, version=_VERSION)


def _packed(numbers: np.ndarray) -> np.ndarray:
    """Two numbers a byte, the first in the low bits, uint8 `[ceil(n / 2)]`."""
    flat = numbers.reshape(-1).view(np.uint8) & 15
    low, high = flat[::2], flat[1::2]
    high = np.pad(high, (0, len(low) - len(high)))
    return low | high << 4


def _with_scales(tensor: Tensor, old: Tensor, scales: np.ndarray) -> Tensor:
    """The tensor with the quantization of an old one, but for the scales."""
    tensor.quantization = copy.copy(old.quantization)
    tensor.quantization.scale = scales.astype(np.float32)
    tensor.quantization.zeroPoint = np.zeros(len(scales), np.int64)
    tensor.quantization.min = tensor.quantization.max = None
    return tensor
