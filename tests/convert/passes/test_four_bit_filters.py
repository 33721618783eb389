"""4-bit filters: the nearest numbers, as TFLite's kernel reads them."""

from __future__ import annotations

import itertools

import numpy as np

from larq_ensemble.convert.passes import dead_code, four_bit_filters
from larq_ensemble.ir.graph import Module, Tensor
from larq_ensemble.ir.schema import options
from larq_ensemble.ir.verifier import verify

from ...builder import Builder, normal, run

SHAPE = (1, 5, 5, 3)


def scaled(tensor: Tensor, scales: list[float]) -> Tensor:
    tensor.quantization = options(
        "QuantizationParameters",
        scale=np.array(scales, np.float32),
        zeroPoint=np.zeros(len(scales), np.int64),
    )
    return tensor


def two_convolutions(filters: np.ndarray) -> Module:
    """int8 convolutions; the second one's filters are given, with a scale of 0.01 each."""
    b = Builder()
    x = scaled(b.op("QUANTIZE", b.input("image", *SHAPE), dtype="int8"), [0.05])
    first = scaled(b.constant(np.eye(3, dtype=np.int8).reshape(3, 1, 1, 3), "int8"), [1.0] * 3)
    bias = [scaled(b.constant([0, 9, -9], "int32"), [scale] * 3) for scale in (0.05, 0.0005)]
    sizes = {"strideH": 1, "strideW": 1}
    x = scaled(b.op("CONV_2D", x, first, bias[0], shape=SHAPE, dtype="int8", **sizes), [0.05])
    second = scaled(b.constant(filters, "int8"), [0.01] * len(filters))
    y = b.op("CONV_2D", x, second, bias[1], shape=SHAPE, dtype="int8", **sizes)
    return b.module(logits=b.op("DEQUANTIZE", scaled(y, [0.05]), dtype="float32"))


def test_numbers_of_four_bits_are_those_that_the_kernel_reads() -> None:
    """Filters whose numbers fit 4 bits stay what they are: 27 weights, so a nibble is left over."""
    filters = np.tile([-7, 7, 3, 0, -1, 2, 5, -4, 1], 3).astype(np.int8).reshape(3, 3, 1, 3) * 18
    module = two_convolutions(filters)
    image = {"image": normal(*SHAPE)}
    expected = run(module, **image)["logits"]
    assert four_bit_filters.run(module) == {"four_bit_filters": 1}
    dead_code.run(module)
    verify(module, no_dead_code=True)
    first, second = module.graph.find("CONV_2D")
    constant = second.operands[1]
    assert (first.operands[1].dtype, constant.dtype) == ("int8", "int4")
    assert constant.data is not None
    assert constant.data.size == 14
    np.testing.assert_allclose(second.operands[1].quantization.scale, 0.18, rtol=1e-6)
    assert (constant.values == filters // 18).all()
    # A bias of 9 steps of 0.0005 is half a step of 0.009.
    np.testing.assert_allclose(run(module, **image)["logits"], expected, atol=0.051)


def test_the_squared_error_is_the_least() -> None:
    weights = normal(4, 3, 3, 64)
    numbers, scales = four_bit_filters.nearest(weights)
    assert numbers.min() >= -8
    assert numbers.max() <= 7

    def error(filter_: np.ndarray, scale: float) -> float:
        rounded = np.clip(np.round(filter_ / scale), -8, 7) * scale
        return float(((filter_ - rounded) ** 2).sum())

    for weight, number, scale in zip(weights, numbers, scales):
        found = float(((weight - number * scale) ** 2).sum())
        tried = [error(weight, s) for s in np.linspace(0.2, 1.2, 500) * np.abs(weight).max() / 7]
        assert found <= 1.05 * min(tried)
        assert found < 0.95 * error(weight, np.abs(weight).max() / 7)


def test_all_numbers_are_packed_and_read() -> None:
    numbers = np.array([*itertools.product(range(-8, 8), repeat=2)], np.int8)
    tensor = Tensor(numbers.shape, "int4", four_bit_filters._packed(numbers))
    assert (tensor.values == numbers).all()
    odd = numbers.reshape(-1)[:-1]
    assert (Tensor(odd.shape, "int4", four_bit_filters._packed(odd)).values == odd).all()
