"""LceBconv2d: CONV_2D of bits by int8 filters, computed in integers.

With the signs x as bits b = 3 (1 - x), 0 for +1 and 6 for -1, a sum over a window is

    sum(w x) = sum(w) - sum(w b) / 3

TFLite quantizes b to whole steps of its largest value, so integers compute the sum. A padded 0
stands for +1: SAME pads with ones, as LCE does. With zero padding, sum(w) goes over the taps
inside the map, and a map is added instead of a bias. It has few different rows and columns, which
GATHER repeats: a large constant would cost as many instructions. A filter's factor and offset are
its scale and its bias:

    factor * sum + offset:    bits -> CONV_2D(w, |factor| / 3, bias) (-> ADD(map))

A fused activation clamps the sum before the factor, so it becomes an operator, and MUL and ADD
follow. A packed output is the signs of a sum with an offset.

Exact: int32 holds the sums. Factors and offsets are rounded as floats, as LCE does in another
order. An int8 output halfway between two integers may become the other one.

The kernel of CONV_2D by int8 filters in tflite-runtime 2.14 ignores fused activations, fails with
groups, and takes equal scales for 0. So nothing is fused here, CONV_2D computes a group at a time,
and of equal scales the first one becomes the next larger float. XNNPACK in TensorFlow 2.21
miscomputes SAME where strides leave pixels out, so it is used only where it pads.

Refused: filters that are no constant. LCE packs them at its first run, so no file has such.
"""

from __future__ import annotations

import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.graph import Operator, Tensor
from larq_ensemble.ir.schema import enum, enum_names
from larq_ensemble.ir.windows import Axis
from larq_ensemble.legalization import weights
from larq_ensemble.legalization.conversion import Conversion
from larq_ensemble.legalization.packed import Signs
from larq_ensemble.legalization.signs import ON, as_bits
from larq_ensemble.tflite.flexbuffer import read_integers

#: Of CONV_2D of floats by int8 filters with a scale for each.
_HYBRID_VERSION = 5


def convolve(conversion: Conversion, op: Operator) -> None:
    """LceBconv2d with float32, int8 or packed output."""
    _, _, multiplier, bias, thresholds = op.inputs
    (output,) = op.outputs
    sums = Sums(conversion, op)
    if thresholds is not None:
        conversion.signs[output] = Signs.of(_compared(conversion, sums, thresholds))
        return
    assert multiplier is not None
    assert bias is not None
    value = _scaled(conversion, sums, multiplier, bias)
    if output.dtype == "int8":
        conversion.op("QUANTIZE", value, output=output)
    else:
        conversion.replace(output, value)


class Sums:
    """The sums of products of signs that an LceBconv2d computes, `[n, h, w, out]`.

    # Attributes
        activation: the name of the activation that is fused.
        filters: their number.
        terms: the number of products in a sum.
    """

    def __init__(self, conversion: Conversion, op: Operator) -> None:
        packed, words, *_ = op.operands
        if words.data is None:
            raise EnsembleError(
                f"LceBconv2d of {list(packed.shape)} has filters that are no constant: builtin "
                "operators can't replace it, and Larq Compute Engine reads such only once. Convert "
                "the model again."
            )
        self._conversion = conversion
        options = read_integers(op.custom_options or b"")
        self._groups = packed.shape[3] // words.shape[3]
        self._channels = options["channels_in"] // self._groups
        self._strides = options["stride_height"], options["stride_width"]
        self._dilations = options["dilation_height_factor"], options["dilation_width_factor"]
        self._axes = Axis.both(packed.shape, words.shape, self._strides, self._dilations)
        self._is_same = options["padding"] == enum("Padding")["SAME"]
        self._pads_zeros = self._is_same and options["pad_values"] == 0
        self._shape = (*op.outputs[0].shape[:3], words.shape[0])
        self._signs = weights.signs_of(words.values, self._channels)
        self._bits = as_bits(conversion, packed, options["channels_in"])
        self.activation = enum_names("ActivationFunctionType")[options["fused_activation_function"]]
        self.filters = words.shape[0]
        self.terms = self._signs[0].size

    def linear(self, factor: np.ndarray, offset: np.ndarray) -> Tensor:
        """`factor * sums + offset`, float32.

        # Arguments
            factor, offset: float64 `[out]`.
        """
        taps = self._signs.sum(axis=3, dtype=np.float64)
        if not self._pads_zeros:
            return self._convolved(factor, taps.sum(axis=(1, 2)) * factor + offset)
        (rows, row), (columns, column) = (axis.kinds() for axis in self._axes)
        totals = (rows @ taps @ columns.T).transpose(1, 2, 0)[np.newaxis]
        border = weights.scaled(self._conversion, totals, factor, offset)
        border = self._repeated(self._repeated(border, 2, column), 1, row)
        sums = self._convolved(factor, np.zeros_like(offset))
        return self._conversion.op("ADD", sums, border)

    def _repeated(self, values: Tensor, axis: int, places: np.ndarray) -> Tensor:
        """A map whose rows or columns are those at places of a smaller one."""
        shape = (*values.shape[:axis], places.size, *values.shape[axis + 1 :])
        index = self._conversion.constant(places, "int32")
        return self._conversion.op("GATHER", values, index, shape=shape, axis=axis)

    def _convolved(self, factor: np.ndarray, bias: np.ndarray) -> Tensor:
        """`-factor * sum(w b) / 3 + bias`."""
        conversion = self._conversion
        if conversion.filters == "1bit" and (factor < 0).any():
            # Not in the filters: members that share bits may have scales of other signs.
            turned = np.where(factor < 0, -1.0, 1.0)
            sums = self._convolved(np.abs(factor), bias * turned)
            return conversion.op("MUL", sums, conversion.constant(turned))
        scales = np.where(factor, np.abs(factor) * (2 / ON), 1)
        against = np.select([factor < 0, factor == 0], [1, 0], -1).astype(np.int8)
        signs = self._signs * against[:, None, None, None]
        bits, padding = self._framed()

        def of_group(number: int) -> Tensor:
            some = slice(*(self.filters // self._groups * n for n in (number, number + 1)))
            return conversion.op(
                "CONV_2D",
                conversion.slice(bits, self._channels * number, self._channels),
                weights.filters(conversion, signs[some], scales[some]),
                conversion.constant(bias[some]),
                shape=(*self._shape[:3], len(bias[some])),
                version=_HYBRID_VERSION,
                padding=enum("Padding")[padding],
                strideH=self._strides[0],
                strideW=self._strides[1],
                dilationHFactor=self._dilations[0],
                dilationWFactor=self._dilations[1],
            )

        parts = [of_group(number) for number in range(self._groups)]
        if len(parts) == 1:
            return parts[0]
        return conversion.op("CONCATENATION", *parts, shape=self._shape, axis=3)

    def _framed(self) -> tuple[Tensor, str]:
        """The bits, with zeros around them if CONV_2D can't pad itself, and its padding."""
        bits = self._bits
        if not self._is_same or all(axis.missing <= 0 for axis in self._axes):
            return bits, "VALID"
        if all(axis.missing >= 0 for axis in self._axes):
            return bits, "SAME"
        added = [(0, 0), *(axis.padding for axis in self._axes), (0, 0)]
        shape = [size + sum(both) for size, both in zip(bits.shape, added, strict=True)]
        amounts = self._conversion.constant(added, "int32")
        return self._conversion.op("PAD", bits, amounts, shape=shape), "VALID"


def _compared(conversion: Conversion, sums: Sums, thresholds: Tensor) -> Tensor:
    """What is below 0 where LCE sets the bit of a packed output.

    It sets it if the number of differing signs, (terms - sum) / 2, is above the threshold. A sum
    and the number of its terms are both odd or both even, so

        sum - terms + 2 threshold + 1

    is odd, and no rounding changes its sign.
    """
    one, base = np.ones(sums.filters), np.full(sums.filters, 1.0 - sums.terms)
    if thresholds.data is not None:
        return sums.linear(one, 2 * thresholds.values.astype(np.float64) + base)
    numbers = conversion.cast(thresholds, "float32")
    doubled = conversion.op("MUL", numbers, conversion.constant(2))
    return conversion.op("ADD", sums.linear(one, base), doubled)


def _scaled(conversion: Conversion, sums: Sums, multiplier: Tensor, bias: Tensor) -> Tensor:
    """`multiplier * activation(sums) + bias`, float32."""
    is_clamped = sums.activation != "NONE"
    if not is_clamped and multiplier.data is not None and bias.data is not None:
        factor, offset = (tensor.values.astype(np.float64) for tensor in (multiplier, bias))
        return sums.linear(factor, offset)
    value = sums.linear(np.ones(sums.filters), np.zeros(sums.filters))
    if is_clamped:
        value = conversion.op(sums.activation, value)
    return conversion.op("ADD", conversion.op("MUL", value, multiplier), bias)
