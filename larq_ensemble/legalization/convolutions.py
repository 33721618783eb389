"""LceBconv2d: CONV_2D of bits by int8 filters, computed in integers.

With the signs x as bits b = 3 (1 - x), 0 for +1 and 6 for -1, a sum over a window is

    sum(w x) = sum(w) - sum(w b) / 3

A padded 0 stands for +1, so SAME pads with ones, as LCE does. For zero padding, sum(w) goes over
the taps inside the map: a constant map instead of a bias. The scale and the offset of each filter
are those of the quantized filters and of the bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from larq_ensemble.ir.graph import Operator, Tensor
from larq_ensemble.ir.schema import enum
from larq_ensemble.legalization import signs, weights
from larq_ensemble.legalization.conversion import Conversion, refused
from larq_ensemble.legalization.packed import Signs
from larq_ensemble.tflite.flexbuffer import read_integers

#: TFLite's version of CONV_2D of floats by int8 filters with a scale for each.
_HYBRID_VERSION = 5
#: What a sum of signs is multiplied by before RELU6, so that 1 becomes at least 6.
_STEEP = 8


def convolve(conversion: Conversion, op: Operator) -> None:
    """LceBconv2d with float32, int8 or packed output."""
    convolution = Convolution.of(conversion, op)
    _, _, multiplier, bias, thresholds = op.inputs
    (output,) = op.outputs
    if output.dtype == "int32":
        assert thresholds is not None
        bits = _threshold(conversion, convolution, thresholds)
        conversion.signs[output] = Signs.of(bits, is_bits=True)
        return
    assert multiplier is not None
    assert bias is not None
    result = output if output.dtype == "float32" else None
    value = _scaled(conversion, convolution, multiplier, bias, op, result)
    if output.dtype == "int8":
        conversion.op("QUANTIZE", value, output=output)


@dataclass(frozen=True)
class Convolution:
    """A binary convolution, without what is done to its sums.

    # Arguments
        bits: 6 for -1 and 0 for +1, float32 `[n, h, w, channels]`.
        filters: +1 and -1, int8 `[out, kernel height, kernel width, channels]`.
        shape: of the output.
        options: of the LceBconv2d.
    """

    bits: Tensor
    filters: np.ndarray
    shape: tuple[int, ...]
    options: dict[str, int]

    @classmethod
    def of(cls, conversion: Conversion, op: Operator) -> Convolution:
        packed, words, *_ = op.inputs
        assert packed is not None
        assert words is not None
        options = read_integers(op.custom_options or b"")
        if words.data is None:
            raise refused(op, "its filters are no constant")
        channels = signs.channels_of(conversion, op, packed)
        if channels != options["channels_in"]:
            raise refused(op, f"its input has {channels} channels")
        groups = packed.shape[3] // words.shape[3]
        filters = weights.signs_of(words.values, channels // groups)
        return cls(
            signs.as_bits(conversion, packed, (*packed.shape[:3], channels)),
            filters,
            (*op.outputs[0].shape[:3], len(filters)),
            options,
        )

    @property
    def pads_zeros(self) -> bool:
        """Whether the taps outside the map add nothing to a sum."""
        is_same = self.options["padding"] == enum("Padding")["SAME"]
        return is_same and self.options["pad_values"] == 0

    @property
    def terms(self) -> int:
        """The number of products in a sum."""
        return self.filters[0].size

    def totals(self) -> np.ndarray:
        """The sums of the taps inside the map, float64 `[1, h, w, out]`, or `[out]` if all are."""
        taps = self.filters.sum(axis=3, dtype=np.float64)
        if not self.pads_zeros:
            return taps.sum(axis=(1, 2))
        _, height, width, _ = self.bits.shape
        rows = _inside(
            height, taps.shape[1], self.options["stride_height"], self._dilation("height")
        )
        columns = _inside(
            width, taps.shape[2], self.options["stride_width"], self._dilation("width")
        )
        return np.einsum("yk,okl,xl->yxo", rows, taps, columns, optimize=True)[np.newaxis]

    def _dilation(self, side: str) -> int:
        return self.options[f"dilation_{side}_factor"]

    def linear(
        self,
        conversion: Conversion,
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
        fused = enum("ActivationFunctionType")[activation]
        added = self.totals() * factor + offset
        if not self.pads_zeros:
            return self._sums(conversion, factor, added, fused, output)
        sums = self._sums(conversion, factor, np.zeros_like(offset))
        border = conversion.constant(added)
        return conversion.op("ADD", sums, border, output=output, fusedActivationFunction=fused)

    def _sums(
        self,
        conversion: Conversion,
        factor: np.ndarray,
        bias: np.ndarray,
        activation: int = 0,
        output: Tensor | None = None,
    ) -> Tensor:
        """`-factor / 3 * sum(w b) + bias`."""
        scales = np.abs(factor) * (2 / signs.ON)
        flipped = self.filters * -np.sign(factor).astype(np.int8)[:, None, None, None]
        quantization = weights.quantization(np.where(scales == 0, 1, scales))
        return conversion.op(
            "CONV_2D",
            self.bits,
            conversion.constant(flipped, "int8", quantization),
            conversion.constant(bias),
            shape=self.shape,
            output=output,
            version=_HYBRID_VERSION,
            padding=self.options["padding"],
            strideH=self.options["stride_height"],
            strideW=self.options["stride_width"],
            dilationHFactor=self._dilation("height"),
            dilationWFactor=self._dilation("width"),
            fusedActivationFunction=activation,
        )


def _inside(size: int, kernel: int, stride: int, dilation: int) -> np.ndarray:
    """Whether taps are inside a map, along one axis, float64 `[outputs, kernel]`."""
    outputs = -(-size // stride)
    padding = max((outputs - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    first = np.arange(outputs) * stride - padding // 2
    places = first[:, np.newaxis] + np.arange(kernel) * dilation
    return ((places >= 0) & (places < size)).astype(np.float64)


def _threshold(conversion: Conversion, convolution: Convolution, thresholds: Tensor) -> Tensor:
    """Bits of a packed output.

    LCE sets a bit if the number of differing signs, (terms - sum) / 2, is above the threshold. The
    sum and the number of terms are both odd or both even, so

        v = sum - terms + 2 threshold + 1

    is an odd number, and negative if the bit is set.
    """
    outputs = len(convolution.filters)
    steep, base = np.full(outputs, -_STEEP, np.float64), 1 - convolution.terms
    if thresholds.data is not None:
        offset = -_STEEP * (2 * thresholds.values.astype(np.float64) + base)
        return convolution.linear(conversion, steep, offset, "RELU6")
    numbers = conversion.cast(thresholds, "float32")
    doubled = conversion.op("MUL", numbers, conversion.constant(-2 * _STEEP))
    sums = convolution.linear(conversion, steep, np.full(outputs, -_STEEP * base, np.float64))
    relu6 = enum("ActivationFunctionType")["RELU6"]
    return conversion.op("ADD", sums, doubled, fusedActivationFunction=relu6)


def _scaled(
    conversion: Conversion,
    convolution: Convolution,
    multiplier: Tensor,
    bias: Tensor,
    op: Operator,
    output: Tensor | None,
) -> Tensor:
    """`multiplier * activation(sums) + bias`."""
    activation = convolution.options["fused_activation_function"]
    if not activation and multiplier.data is not None and bias.data is not None:
        factor, offset = (t.values.astype(np.float64) for t in (multiplier, bias))
        return convolution.linear(conversion, factor, offset, output=output)
    names = {number: name for name, number in enum("ActivationFunctionType").items()}
    one, zero = np.ones(len(convolution.filters)), np.zeros(len(convolution.filters))
    value = convolution.linear(conversion, one, zero, names[activation])
    product = conversion.op("MUL", value, multiplier)
    return conversion.op("ADD", product, bias, output=output)
