"""The strides of a 1x1 convolution move into the slice before it; the values stay."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.convert.passes import dead_code, strided_slices
from larq_ensemble.ir.graph import Module

from ...builder import Builder, names, normal, run

KERNEL = normal(5, 1, 1, 3)


def pattern(
    *, size: int = 6, strides: int = 2, steps: int = 1, kernel: int = 1, more: bool = False
) -> Module:
    """A crop of the first row and column before a convolution."""
    build = Builder()
    x = build.input("image", 1, size, size, 3)
    begin, end, step = (
        build.constant(values, "int32")
        for values in ([0, 1, 1, 0], [1, size, size, 3], [1, steps, steps, 1])
    )
    left = -(-(size - 1) // steps)
    cropped = build.op("STRIDED_SLICE", x, begin, end, step, shape=(1, left, left, 3))
    filters = build.constant(np.broadcast_to(KERNEL, (5, kernel, kernel, 3)))
    bias = build.constant(np.zeros(5))
    out = -(-left // strides)
    y = build.op(
        "CONV_2D", cropped, filters, bias, shape=(1, out, out, 5), strideH=strides, strideW=strides
    )
    return build.module(logits=y, **({"more": cropped} if more else {}))


@pytest.mark.parametrize("size", [6, 5])
def test_the_strides_move(size: int) -> None:
    module = pattern(size=size)
    image = normal(1, size, size, 3)
    before = run(module, image=image)["logits"]
    assert strided_slices.run(module)["strided_slices"] == 1
    dead_code.run(module)
    assert names(module.graph) == ["STRIDED_SLICE", "CONV_2D"]
    crop, convolution = module.graph.operators
    assert crop.outputs[0].shape == (1, *before.shape[1:3], 3)
    assert (convolution.options.strideH, convolution.options.strideW) == (1, 1)
    after = run(module, image=image)["logits"]
    np.testing.assert_array_equal(after, before)
    expected = np.einsum("nhwc,oc->nhwo", image[:, 1::2, 1::2], KERNEL[:, 0, 0])
    np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", [{"strides": 1}, {"steps": 2}, {"kernel": 3}, {"more": True}])
def test_other_patterns_stay(change: dict) -> None:
    module = pattern(**change)
    image = normal(1, 6, 6, 3)
    before = run(module, image=image)
    assert strided_slices.run(module)["strided_slices"] == 0
    for name, values in run(module, image=image).items():
        np.testing.assert_array_equal(values, before[name])
