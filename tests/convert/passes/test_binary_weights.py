"""Binary and ternary constants become bits, and the operators compute the same, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from larq_ensemble.convert.passes import binary_weights
from larq_ensemble.ir.graph import Module, Tensor

from ...builder import Builder, names, normal, run

_PLAIN = dict.fromkeys(("strideH", "strideW", "dilationHFactor", "dilationWFactor"), 1)


def signs(*shape: int, values: Any = (-1, 1)) -> np.ndarray:
    return np.random.default_rng(0).choice(np.float32(values), shape)


def convolution(weights: np.ndarray) -> Module:
    build, (filters, *_, channels) = Builder(), weights.shape
    x, bias = build.input("image", 1, 5, 6, channels), build.constant(np.zeros(filters))
    return build.module(
        y=build.op("CONV_2D", x, build.constant(weights), bias, shape=(1, 5, 6, filters), **_PLAIN)
    )


def depthwise(weights: np.ndarray) -> Module:
    build, channels = Builder(), weights.shape[-1]
    x, bias = build.input("image", 1, 5, 6, channels), build.constant(np.zeros(channels))
    options = {**_PLAIN, "depthMultiplier": 1}
    return build.module(
        y=build.op("DEPTHWISE_CONV_2D", x, build.constant(weights), bias, shape=x.shape, **options)
    )


def dense(weights: np.ndarray) -> Module:
    build, (units, channels) = Builder(), weights.shape
    x, bias = build.input("image", 3, channels), build.constant(np.ones(units))
    weights_ = build.constant(weights)
    return build.module(
        y=build.op("FULLY_CONNECTED", x, weights_, bias, shape=(3, units), weightsFormat=0)
    )


def elementwise(weights: np.ndarray, name: str = "MUL") -> Module:
    build = Builder()
    x = build.input("image", 1, *weights.shape)
    return build.module(y=build.op(name, x, build.constant(weights)))


def stored_bytes(module: Module) -> int:
    constants = [tensor.data for tensor in module.graph.tensors if tensor.data is not None]
    return sum(data.size for data in constants)


SCALES = normal(24, 1, 1, 1) ** 2 + 0.1


@pytest.mark.parametrize(
    ("module", "operators", "saved"),
    [
        # [24, 3, 3, 32]: whole words.
        (convolution(signs(24, 3, 3, 32)), "LceDequantize", 6912 * 4 - 6912 // 8),
        (
            convolution(signs(24, 3, 3, 32) * SCALES),
            "LceDequantize MUL",
            6912 * 4 - 6912 // 8 - 24 * 4,
        ),
        # Scales below 0, and one of 0: a filter of zeros, +0 and -0.
        (
            convolution(
                signs(24, 3, 3, 32) * np.float32([-0.5, 0, *range(22)]).reshape(24, 1, 1, 1)
            ),
            "LceDequantize MUL",
            6912 * 4 - 6912 // 8 - 24 * 4,
        ),
        # Three channels fill no word: 648 bits are 21 words. The shape takes 16 bytes.
        (convolution(signs(24, 3, 3, 3)), "LceDequantize RESHAPE", 648 * 4 - 21 * 4 - 16),
        # Two planes of 648 bits, 1 byte * 4 for the axis, the shape and one scale.
        (
            convolution(np.float32(0.3) * signs(24, 3, 3, 3, values=(-1, 0, 1))),
            "LceDequantize SUM RESHAPE MUL",
            648 * 4 - 2 * 21 * 4 - 4 - 16 - 4,
        ),
        # Heaviside's 0 and 1 need two planes, too.
        (
            convolution(signs(24, 3, 3, 3, values=(0, 1))),
            "LceDequantize SUM RESHAPE MUL",
            648 * 4 - 2 * 21 * 4 - 4 - 16 - 4,
        ),
        (depthwise(signs(1, 3, 3, 32)), "LceDequantize", 288 * 4 - 36),
        (dense(np.float32(0.7) * signs(10, 64)), "LceDequantize MUL", 640 * 4 - 80 - 4),
        (elementwise(signs(6, 64)), "LceDequantize", 384 * 4 - 48),
    ],
)
def test_weights_become_bits(module: Module, operators: str, saved: int) -> None:
    image = normal(*module.graph.inputs[0].shape)
    before, size = run(module, image=image)["y"], stored_bytes(module)
    (reader,) = names(module.graph)
    assert binary_weights.run(module)["packed_weights"] == 1
    assert names(module.graph) == [*operators.split(), reader]
    assert size - stored_bytes(module) == saved
    assert run(module, image=image)["y"].tobytes() == before.tobytes()


@pytest.mark.parametrize(
    "module",
    [
        convolution(normal(8, 3, 3, 8)),  # real-valued
        convolution(signs(8, 3, 3, 8, values=(-1, 1, 2))),
        convolution(signs(8, 3, 3, 8) * (normal(8, 1, 1, 1) * normal(1, 1, 1, 8))),  # two axes
        convolution(signs(8, 3, 3, 8, values=(-1, -0.0, 1))),  # no sum is -0
        convolution(np.zeros((8, 3, 3, 8), np.float32)),
        dense(signs(2, 64)),  # 128 weights take 512 bytes
        elementwise(np.ones((6, 64), np.float32)),  # rather a scale
        elementwise(signs(6, 64), "ADD"),
    ],
)
def test_what_is_left_alone(module: Module) -> None:
    before, size = names(module.graph), stored_bytes(module)
    assert binary_weights.run(module)["packed_weights"] == 0
    assert (names(module.graph), stored_bytes(module)) == (before, size)


def test_weights_that_are_an_output_stay() -> None:
    module = elementwise(signs(6, 64))
    (weights,) = (tensor for tensor in module.graph.tensors if tensor.data is not None)
    module.graph.outputs.append(weights)
    assert binary_weights.run(module)["packed_weights"] == 0


def test_planes_by_hand() -> None:
    values = np.zeros((2, 16), np.float32)
    values[0], values[1, :3] = -2, (3, -3, 0)
    planes = binary_weights.planes_of(Tensor.constant(values))
    assert planes is not None
    assert planes.scale.tolist() == [[1.0], [1.5]]
    np.testing.assert_array_equal(planes.signs.sum(axis=0) * planes.scale, values)
