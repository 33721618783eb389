"""Filters that differ in signs of channels become one, and outputs stay equal to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.convert.passes import shared_filters
from larq_ensemble.ir.graph import Module, Tensor
from larq_ensemble.ir.schema import schema
from larq_ensemble.ir.verifier import verify

from ...builder import Builder, names, normal, run

FILTERS = np.sign(normal(4, 3, 3, 2)).astype(np.int8)


def convolutions(*turned: list[int], fused: int = 0) -> Module:
    """Convolutions of one image, whose filters are turned by signs of their 4 channels."""
    build = Builder()
    # The values that binary convolutions read.
    x = build.input("image", 1, 5, 5, 2)
    outputs = {}
    for number, signs in enumerate(turned):
        filters = build.constant(FILTERS * np.reshape(signs, (4, 1, 1, 1)), "int8")
        filters.quantization = schema().QuantizationParametersT()
        filters.quantization.scale = normal(4, seed=number) ** 2 + 0.1
        filters.quantization.zeroPoint = np.zeros(4, np.int64)
        bias = build.constant(normal(4, seed=10 + number))
        outputs[f"logits_{number}"] = build.op(
            "CONV_2D", x, filters, bias, shape=(1, 5, 5, 4), strideH=1, strideW=1,
            dilationHFactor=1, dilationWFactor=1, fusedActivationFunction=fused,
        )  # fmt: skip
    for op in build._operators:
        op.version = 5
    return build.module(**outputs)


def data_of_filters(module: Module) -> list[np.ndarray]:
    tensors: list[Tensor] = [op.operands[1] for op in module.graph.find("CONV_2D")]
    return [tensor.data for tensor in tensors]


@pytest.mark.parametrize("fused", [0, 1])
def test_one_filter_for_all(fused: int) -> None:
    image = 6 * (normal(1, 5, 5, 2) > 0).astype(np.float32)
    turned = [1, 1, 1, 1], [1, -1, 1, -1], [-1, -1, -1, -1]
    before = run(convolutions(*turned, fused=fused), image=image)
    module = convolutions(*turned, fused=fused)
    assert shared_filters.run(module)["shared_filters"] == 2
    verify(module)
    first, *others = data_of_filters(module)
    assert all(data is first for data in others)
    after = run(module, image=image)
    for name, expected in before.items():
        np.testing.assert_array_equal(after[name], expected)
        assert (expected.min() < 0) == (not fused)


def test_equal_and_different_filters_stay() -> None:
    module = convolutions([1, 1, 1, 1], [1, 1, 1, 1])
    other = module.graph.find("CONV_2D")[0].operands[1]
    other.set_values(np.where(np.arange(72).reshape(4, 3, 3, 2) == 7, -1, 1) * FILTERS)
    assert shared_filters.run(module)["shared_filters"] == 0
    assert names(module.graph) == ["CONV_2D", "CONV_2D"]
