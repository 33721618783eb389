"""Moves the strides of a 1x1 convolution into the slice before it.

    x -> STRIDED_SLICE -> CONV_2D, 1x1, strides s    becomes
    x -> STRIDED_SLICE, strides s -> CONV_2D, 1x1

A shortcut that starts at the second pixel is such a slice. The convolution reads only what the new
slice copies, and without strides a 1x1 convolution is one matrix product over the map as it lies in
memory: TFLite does not gather its input first.

Left alone: slices that something else reads too, that have strides already, or that drop, add or
leave out axes; larger filters.

Exact: every output has the same bits as before.
"""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np

from larq_ensemble.ir.graph import Graph, Module, Operator, Tensor

_OTHER_AXES = ("ellipsisMask", "newAxisMask", "shrinkAxisMask")


def run(module: Module) -> Counter[str]:
    """Counts `strided_slices`."""
    graph, count = module.graph, 0
    for convolution in graph.find("CONV_2D"):
        x, filters, *_ = convolution.operands
        crop = graph.producer(x, "STRIDED_SLICE")
        strides = (1, convolution.options.strideH, convolution.options.strideW, 1)
        is_pointwise = filters.shape[1:3] == (1, 1)
        if crop is None or not is_pointwise or max(strides) == 1 or graph.uses(x) > 1:
            continue
        if _has_no_strides(crop):
            _move(graph, crop, convolution, strides)
            count += 1
    return Counter(strided_slices=count)


def _has_no_strides(crop: Operator) -> bool:
    strides = crop.operands[3]
    return strides.is_constant(1) and not any(getattr(crop.options, m) for m in _OTHER_AXES)


def _move(
    graph: Graph, crop: Operator, convolution: Operator, strides: tuple[int, int, int, int]
) -> None:
    x, begin, end, _ = crop.inputs
    cropped, *weights = convolution.inputs
    assert cropped is not None
    _, height, width, _ = convolution.outputs[0].shape
    read = graph.add_like(cropped, (cropped.shape[0], height, width, cropped.shape[3]))
    steps = graph.add(Tensor.constant(np.array(strides, np.int32)))
    without = copy.copy(convolution.options)
    without.strideH = without.strideW = 1
    graph.rewrite(crop, inputs=(x, begin, end, steps), outputs=(read,))
    graph.rewrite(convolution, inputs=(read, *weights), options=without)
