"""Dense layers of signs by signs become LceBconv2d."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from larq_ensemble.convert.passes import binary_dense, dead_code
from larq_ensemble.ir.graph import Module

from ...builder import Builder, names, normal, run
from .test_binary_weights import signs

RELU, RELU6 = 1, 3


def dense(weights: np.ndarray, *bias: np.ndarray, is_binary: bool = True, **options: Any) -> Module:
    """A dense layer of two rows."""
    build, (units, channels) = Builder(), weights.shape
    x = build.input("image", 2, channels)
    if is_binary:
        words = -(-channels // 32)
        bits = build.op("LceQuantize", x, shape=(2, words), dtype="int32", custom=b"")
        x = build.op("LceDequantize", bits, shape=x.shape, dtype="float32", custom=b"")
    operands = [build.constant(values) for values in (weights, *bias)]
    fields = {"weightsFormat": 0, **options}
    return build.module(y=build.op("FULLY_CONNECTED", x, *operands, shape=(2, units), **fields))


@pytest.mark.parametrize("channels", [64, 70])
@pytest.mark.parametrize("activation", [0, RELU])
def test_sums_of_signs_are_exact(channels: int, activation: int) -> None:
    weights = signs(24, channels)
    module = dense(weights, fusedActivationFunction=activation)
    assert binary_dense.run(module)["binary_dense_layers"] == 1
    dead_code.run(module)
    operators = ["LceQuantize", "RESHAPE", "LceBconv2d", "RESHAPE", "RELU"]
    assert names(module.graph) == operators[: 5 if activation else 4]
    image = normal(2, channels)
    sums = np.where(image < 0, -1, 1) @ weights.T
    ours = run(module, image=image)["y"]
    np.testing.assert_array_equal(ours, np.maximum(sums, 0) if activation else sums)


@pytest.mark.parametrize("units", [24, 1])
def test_scales_and_bias(units: int) -> None:
    weights, scale, bias = signs(24, 64), normal(units, 1) ** 2 + 0.1, normal(24, seed=1)
    module = dense(weights * scale, bias, fusedActivationFunction=RELU)
    assert binary_dense.run(module)["binary_dense_layers"] == 1
    image = normal(2, 64)
    expected = np.maximum((np.where(image < 0, -1, 1) @ weights.T) * scale[:, 0] + bias, 0)
    np.testing.assert_allclose(run(module, image=image)["y"], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "module",
    [
        dense(normal(24, 64)),  # real-valued weights
        dense(signs(24, 64), is_binary=False),  # real-valued inputs
        dense(signs(24, 64, values=(-1, 0, 1))),
        dense(signs(24, 64) * (normal(1, 64) ** 2 + 0.1)),  # a scale an input
        dense(signs(24, 64), fusedActivationFunction=RELU6),
    ],
)
def test_what_is_left_alone(module: Module) -> None:
    before = names(module.graph)
    assert binary_dense.run(module)["binary_dense_layers"] == 0
    assert names(module.graph) == before
