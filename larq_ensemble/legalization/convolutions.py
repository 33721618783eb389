"""LceBconv2d: CONV_2D of bits by int8 filters in integers, or of ones by unpacked filters.

With the signs x as bits b = 3 (1 - x), 0 for +1 and 6 for -1, a sum over a window is

    sum(w x) = sum(w) - sum(w b) / 3

TFLite quantizes b to whole steps of its largest value, so integers compute the sum. A padded 0
stands for +1: SAME pads with ones, as LCE does. With zero padding, sum(w) goes over the taps
inside the map, and a constant map is added instead of a bias. A filter's factor and offset are its
scale and its bias:

    factor * sum + offset:    bits -> CONV_2D(w, |factor| / 3, bias) (-> ADD(map))

Filters of one bit, or that are computed, are float32 when they meet the signs:

    ones (-> PADV2(1)) -> CONV_2D(unpacked w) (-> MUL(factor)) (-> ADD(offset))

A packed output is the bits of a steep line with RELU6. LCE's clamps of the sum come before the
factor, so with a fused activation CONV_2D computes the sum alone, and MUL and ADD follow.

Exact: int32 and, up to 2^24, float32 hold the sums. Factors and offsets are rounded as floats, as
LCE does in another order. An int8 output that lies between two integers may become the other one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from larq_ensemble.ir.graph import Operator, Tensor
from larq_ensemble.ir.schema import enum, enum_names
from larq_ensemble.legalization import weights
from larq_ensemble.legalization.conversion import Conversion
from larq_ensemble.legalization.packed import Signs
from larq_ensemble.legalization.signs import ON, as_bits, as_ones
from larq_ensemble.tflite.flexbuffer import read_integers

#: What a sum is multiplied by before RELU6, so that 1 becomes more than 6.
_STEEP = 8
#: Of CONV_2D: floats by int8 filters with a scale for each, and convolutions with groups.
_HYBRID_VERSION, _GROUPS_VERSION = 5, 6


def convolve(conversion: Conversion, op: Operator) -> None:
    """LceBconv2d with float32, int8 or packed output."""
    _, filters, multiplier, bias, thresholds = op.inputs
    (output,) = op.outputs
    assert filters is not None
    is_integer = conversion.filters == "int8" and filters.data is not None
    sums = (IntegerSums if is_integer else FloatSums)(conversion, op)
    if output.dtype == "int32":
        assert thresholds is not None
        bits = _below(conversion, sums, thresholds)
        conversion.signs[output] = Signs.of(bits, is_bits=True)
        return
    assert multiplier is not None
    assert bias is not None
    real = output if output.dtype == "float32" else None
    value = _scaled(conversion, sums, multiplier, bias, real)
    if real is None:
        conversion.op("QUANTIZE", value, output=output)


class Sums(ABC):
    """The sums of products of signs that an LceBconv2d computes, `[n, h, w, out]`.

    # Attributes
        activation: the name of the activation that is fused.
        filters: their number.
        terms: the number of products in a sum.
    """

    def __init__(self, conversion: Conversion, op: Operator) -> None:
        packed, words, *_ = op.operands
        self._conversion = conversion
        self._options = read_integers(op.custom_options or b"")
        channels = self._options["channels_in"]
        groups = packed.shape[3] // words.shape[3]
        self.filters, *self._kernel, _ = words.shape
        self.activation = _activations()[self._options["fused_activation_function"]]
        self._channels = channels // groups
        self.terms = self._kernel[0] * self._kernel[1] * self._channels
        self._shape = (*op.outputs[0].shape[:3], self.filters)
        self._groups = groups
        is_same = self._options["padding"] == enum("Padding")["SAME"]
        self._pads_zeros = is_same and not self._options["pad_values"]
        self._pads_ones = is_same and not self._pads_zeros

    @abstractmethod
    def linear(
        self,
        factor: np.ndarray,
        offset: np.ndarray,
        activation: str = "NONE",
        output: Tensor | None = None,
    ) -> Tensor:
        """`activation(factor * sums + offset)`, float32.

        # Arguments
            factor, offset: float64 `[out]`.
            output: as for `Conversion.op`.
        """

    def _convolved(
        self, x: Tensor, filters: Tensor, bias: np.ndarray, *, version: int, **fields: Any
    ) -> Tensor:
        """CONV_2D with the LceBconv2d's strides and dilations."""
        options = self._options
        fields.setdefault("padding", options["padding"])
        return self._conversion.op(
            "CONV_2D",
            x,
            filters,
            self._conversion.constant(bias),
            shape=self._shape,
            version=_GROUPS_VERSION if self._groups > 1 else version,
            strideH=options["stride_height"],
            strideW=options["stride_width"],
            dilationHFactor=options["dilation_height_factor"],
            dilationWFactor=options["dilation_width_factor"],
            **fields,
        )

    def _axes(self, shape: tuple[int, ...]) -> list[_Axis]:
        """Height and width of the window on a map `[n, h, w, c]`."""
        return [
            _Axis(
                size,
                kernel,
                self._options[f"stride_{side}"],
                self._options[f"dilation_{side}_factor"],
            )
            for size, kernel, side in zip(
                shape[1:3], self._kernel, ("height", "width"), strict=True
            )
        ]


class IntegerSums(Sums):
    """Sums of constant filters, which CONV_2D computes in integers."""

    def __init__(self, conversion: Conversion, op: Operator) -> None:
        super().__init__(conversion, op)
        packed, words, *_ = op.operands
        self._bits = as_bits(conversion, packed, self._channels * self._groups)
        self._signs = weights.signs_of(words.values, self._channels)

    def linear(
        self,
        factor: np.ndarray,
        offset: np.ndarray,
        activation: str = "NONE",
        output: Tensor | None = None,
    ) -> Tensor:
        fused = enum("ActivationFunctionType")[activation]
        added = self._totals() * factor + offset
        bias = np.zeros_like(offset) if self._pads_zeros else added
        scales = np.abs(factor) * (2 / ON)
        quantization = weights.quantization(np.where(scales == 0, 1, scales))
        signs = self._signs * -np.sign(factor).astype(np.int8)[:, None, None, None]
        sums = self._convolved(
            self._bits,
            self._conversion.constant(signs, "int8", quantization),
            bias,
            version=_HYBRID_VERSION,
            output=None if self._pads_zeros else output,
            fusedActivationFunction=0 if self._pads_zeros else fused,
        )
        if not self._pads_zeros:
            return sums
        border = self._conversion.constant(added)
        return self._conversion.op(
            "ADD", sums, border, output=output, fusedActivationFunction=fused
        )

    def _totals(self) -> np.ndarray:
        """The sums of the taps inside the map, float64 `[1, h, w, out]`, or `[out]` of all taps."""
        taps = self._signs.sum(axis=3, dtype=np.float64)
        if not self._pads_zeros:
            return taps.sum(axis=(1, 2))
        rows, columns = (axis.inside() for axis in self._axes(self._bits.shape))
        return np.einsum("yk,okl,xl->yxo", rows, taps, columns, optimize=True)[np.newaxis]


class FloatSums(Sums):
    """Sums of filters that are unpacked at each run."""

    def __init__(self, conversion: Conversion, op: Operator) -> None:
        super().__init__(conversion, op)
        packed, words, *_ = op.operands
        self._ones = as_ones(conversion, packed, self._channels * self._groups)
        if self._pads_ones:
            self._ones = self._padded(self._ones)
        if words.data is not None:
            signs = weights.signs_of(words.values, self._channels)
            self._weights = weights.from_bits(conversion, signs)
        else:
            self._weights = weights.unpacked(conversion, words, self._channels)

    def linear(
        self,
        factor: np.ndarray,
        offset: np.ndarray,
        activation: str = "NONE",
        output: Tensor | None = None,
    ) -> Tensor:
        fused = enum("ActivationFunctionType")[activation]
        padding = enum("Padding")["VALID"] if self._pads_ones else self._options["padding"]
        is_scaled = bool((factor != 1).any())

        def convolved(bias: np.ndarray, **fields: Any) -> Tensor:
            return self._convolved(
                self._ones, self._weights, bias, version=1, padding=padding, **fields
            )

        if not is_scaled:
            return convolved(offset, output=output, fusedActivationFunction=fused)
        conversion = self._conversion
        product = conversion.op(
            "MUL", convolved(np.zeros_like(offset)), conversion.constant(factor)
        )
        constant = conversion.constant(offset)
        return conversion.op("ADD", product, constant, output=output, fusedActivationFunction=fused)

    def _padded(self, ones: Tensor) -> Tensor:
        sides = [axis.padding for axis in self._axes(ones.shape)]
        added = [(0, 0), *sides, (0, 0)]
        shape = [size + sum(sides) for size, sides in zip(ones.shape, added, strict=True)]
        constant = self._conversion.constant
        return self._conversion.op(
            "PADV2", ones, constant(added, "int32"), constant(1), shape=shape
        )


@dataclass(frozen=True)
class _Axis:
    """A window along the height or the width of a map, with padding "same".

    # Arguments
        size: of the map.
        kernel: taps of the filter.
        stride, dilation: steps between outputs, and between taps.
    """

    size: int
    kernel: int
    stride: int
    dilation: int

    @property
    def padding(self) -> tuple[int, int]:
        """What is added before and behind."""
        extent = (self.kernel - 1) * self.dilation + 1
        total = max((self._outputs - 1) * self.stride + extent - self.size, 0)
        return total // 2, total - total // 2

    def inside(self) -> np.ndarray:
        """Which taps are inside the map, float64 `[outputs, kernel]`, 1 and 0."""
        first = np.arange(self._outputs) * self.stride - self.padding[0]
        places = first[:, np.newaxis] + np.arange(self.kernel) * self.dilation
        return ((places >= 0) & (places < self.size)).astype(np.float64)

    @property
    def _outputs(self) -> int:
        return -(-self.size // self.stride)


@cache
def _activations() -> dict[int, str]:
    return enum_names("ActivationFunctionType")


def _below(conversion: Conversion, sums: Sums, thresholds: Tensor) -> Tensor:
    """6 where LCE sets the bit of a packed output, else 0.

    It sets it if the number of differing signs, (terms - sum) / 2, is above the threshold. A sum
    and the number of its terms are both odd or both even, so

        sum - terms + 2 threshold + 1

    is odd, and below 0 where the bit is set.
    """
    base, steep = 1 - sums.terms, np.full(sums.filters, -_STEEP, np.float64)
    if thresholds.data is not None:
        offset = steep * (2 * thresholds.values.astype(np.float64) + base)
        return sums.linear(steep, offset, "RELU6")
    numbers = conversion.cast(thresholds, "float32")
    doubled = conversion.op("MUL", numbers, conversion.constant(-2 * _STEEP))
    relu6 = enum("ActivationFunctionType")["RELU6"]
    line = sums.linear(steep, steep * base)
    return conversion.op("ADD", line, doubled, fusedActivationFunction=relu6)


def _scaled(
    conversion: Conversion, sums: Sums, multiplier: Tensor, bias: Tensor, output: Tensor | None
) -> Tensor:
    """`multiplier * activation(sums) + bias`, float32."""
    if sums.activation == "NONE" and multiplier.data is not None and bias.data is not None:
        factor, offset = (tensor.values.astype(np.float64) for tensor in (multiplier, bias))
        return sums.linear(factor, offset, output=output)
    one, zero = np.ones(sums.filters), np.zeros(sums.filters)
    product = conversion.op("MUL", sums.linear(one, zero, sums.activation), multiplier)
    return conversion.op("ADD", product, bias, output=output)
