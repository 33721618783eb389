"""LceQuantize, LceDequantize, and the forms in which signs are read.

LceQuantize sets a bit where x < 0, so for +0 and -0 it is 0. Nothing replaces it until its signs
are read, as one of

    bits    6 where x < 0, else 0:    x -> MUL(-3e38) with a fused RELU6
    ones    -1 where x < 0, else 1:   bits -> MUL(-1/3) -> ADD(1)
    words   as LCE packs them, for operators that no pattern knows: two sums of powers of 2 a word

Exact, except for negative numbers above -2e-38 (the smallest normal number is 1.2e-38), which come
between 0 and 6, and for NaN, for which LCE's kernels differ from each other. On ARM LCE takes -0
for -1 where it packs 128 numbers at once.
"""

from __future__ import annotations

import numpy as np

from larq_ensemble.ir.graph import Operator, Tensor
from larq_ensemble.ir.schema import enum
from larq_ensemble.legalization import weights
from larq_ensemble.legalization.conversion import Conversion
from larq_ensemble.legalization.packed import WORD, Signs

#: Large enough for 6 from numbers of 2e-38 on, and no infinity itself.
_LARGE = 3e38
#: The value of a bit that is set: where RELU6 cuts off.
ON = 6
_HALF = WORD // 2


def quantize(conversion: Conversion, op: Operator) -> None:
    """LceQuantize of float32, int8 or bool."""
    (x,), (output,) = op.operands, op.outputs
    if x.dtype == "int8":  # packed by its zero point
        x = conversion.op("DEQUANTIZE", x, dtype="float32")
    elif x.dtype == "bool":  # false is -1
        x = conversion.op("ADD", conversion.cast(x, "float32"), conversion.constant(-1))
    conversion.signs[output] = Signs.of(x)


def dequantize(conversion: Conversion, op: Operator) -> None:
    """LceDequantize to float32, int8 or bool."""
    (packed,), (output,) = op.operands, op.outputs
    channels = output.shape[-1]
    if output.dtype == "float32":
        if packed in conversion.signs:
            ones = as_ones(conversion, packed, channels)
        else:
            ones = weights.unpacked(conversion, packed, channels)
        conversion.replace(output, ones)
        return
    bits = as_bits(conversion, packed, channels)
    if output.dtype == "bool":
        conversion.op("LESS", bits, conversion.constant(ON / 2), output=output)
        return
    positive, negative = _quantized_ones(output)
    # Multiples of the scale, so that QUANTIZE has nothing to round.
    numbers = conversion.op("MUL", bits, conversion.constant((negative - positive) / ON))
    numbers = conversion.op("ADD", numbers, conversion.constant(positive))
    conversion.op("QUANTIZE", numbers, output=output)


def of_packed(conversion: Conversion, packed: Tensor) -> Signs:
    """The signs of a packed tensor, by rows along its last axis.

    Of an input, what an unknown operator computes, or parts of rows: all bits.
    """
    signs = conversion.signs.get(packed)
    if signs is None or not signs.fit(packed):
        pack(conversion, packed)
        off_on = ON * (1 - weights.OF_BYTES) // 2
        bits = weights.of_bytes(conversion, weights.as_bytes(conversion, packed), off_on)
        signs = conversion.signs[packed] = Signs.of(bits, is_bits=True)
    return signs


def as_bits(conversion: Conversion, packed: Tensor, channels: int) -> Tensor:
    """The first signs of each row of a packed tensor as 6 for -1 and 0 for +1.

    # Returns
        float32 `[..., channels]`.
    """
    signs = of_packed(conversion, packed)
    bits = signs.source
    if not signs.is_bits:
        relu6 = enum("ActivationFunctionType")["RELU6"]
        factor = conversion.constant(-_LARGE)
        bits = conversion.op("MUL", bits, factor, fusedActivationFunction=relu6)
    rows = conversion.reshape(bits, (*packed.shape[:-1], signs.channels(packed)))
    return conversion.resized(rows, channels)


def as_ones(conversion: Conversion, packed: Tensor, channels: int) -> Tensor:
    """The first signs of each row of a packed tensor as -1 and +1, float32 `[..., channels]`."""
    bits = as_bits(conversion, packed, channels)
    # Exact: 6 times the float next to 1/3 rounds to 2.
    halves = conversion.op("MUL", bits, conversion.constant(-2 / ON))
    return conversion.op("ADD", halves, conversion.constant(1))


def pack(conversion: Conversion, packed: Tensor) -> None:
    """Computes a packed tensor of the old graph, for operators that read its words."""
    producer = conversion.producer(packed)
    if conversion.is_computed(packed) or producer is None:
        return
    if not producer.name.startswith("Lce"):  # it moves words, and was left out
        for operand in producer.operands:
            pack(conversion, operand)
        conversion.keep(producer)
        return
    channels = conversion.signs[packed].channels(packed)
    ones = conversion.op("MUL", as_bits(conversion, packed, channels), conversion.constant(1 / ON))
    ones = conversion.resized(ones, packed.shape[-1] * WORD)
    rows = conversion.reshape(ones, (packed.size, WORD))
    # Sums that float32 holds; the sign of a word is its highest bit.
    powers = np.zeros((2, WORD))
    powers[0, :_HALF] = powers[1, _HALF:] = 2.0 ** np.arange(_HALF)
    powers[1, -1] *= -1
    halves = conversion.op(
        "FULLY_CONNECTED", rows, conversion.constant(powers), shape=(packed.size, 2)
    )
    place = conversion.constant([1, 1 << _HALF], "int32")
    placed = conversion.op("MUL", conversion.cast(halves, "int32"), place)
    axis = conversion.constant([1], "int32")
    sums = conversion.op("SUM", placed, axis, shape=(packed.size,))
    conversion.reshape(sums, packed.shape, output=packed)


def _quantized_ones(output: Tensor) -> tuple[float, float]:
    """The numbers that LCE's int8 values for +1 and -1 stand for."""
    scale = np.float32(output.quantization.scale[0])
    zero = int(output.quantization.zeroPoint[0])
    step = int(np.floor(np.float32(1) / scale + 0.5))
    steps = min(127, zero + step) - zero, max(-128, zero - step) - zero
    return steps[0] * float(scale), steps[1] * float(scale)
