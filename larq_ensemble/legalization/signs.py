"""LceQuantize and LceDequantize.

LceQuantize sets a bit where x < 0, so for +0 and -0 it is 0. Its signs are needed as one of

    bits   6 where x < 0, else 0:    x -> MUL(-3e38) with a fused RELU6
    ones   -1 where x < 0, else 1:   bits -> MUL(-1/3) -> ADD(1)

Exact, except for negative numbers above -2e-38 (about the smallest normal number), which become
something between 0 and 6, and for NaN, for which LCE's kernels differ from each other. On ARM LCE
packs -0 as -1, too, if 128 numbers are packed at once.

LceDequantize gives ones. Of words that are looked up or constant it becomes the unpacking of
weights (`larq_ensemble.legalization.weights`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from larq_ensemble.ir.graph import Operator, Tensor
from larq_ensemble.ir.schema import enum
from larq_ensemble.legalization import weights
from larq_ensemble.legalization.conversion import Conversion, refused
from larq_ensemble.legalization.packed import Signs

#: Large enough for 6 from numbers of 2e-38 on, and no infinity itself.
_LARGE = 3e38
#: The value of a bit that is set: what RELU6 cuts off.
ON = 6


def quantize(conversion: Conversion, op: Operator) -> None:
    """LceQuantize: nothing until its signs are read."""
    (x,), (output,) = op.operands, op.outputs
    if x.dtype == "int8":  # below 0 where the integer is below its zero point
        x = conversion.op("DEQUANTIZE", x, dtype="float32")
    elif x.dtype == "bool":  # false is packed as -1
        number = conversion.cast(x, "float32")
        x = conversion.op("ADD", number, conversion.constant(-1))
    conversion.signs[output] = Signs.of(x)


def dequantize(conversion: Conversion, op: Operator) -> None:
    """LceDequantize to float32, int8 or bool."""
    (packed,), (output,) = op.operands, op.outputs
    if packed in conversion.signs:
        ones = as_ones(conversion, packed, output.shape)
    else:
        ones = weights.unpacked(conversion, packed, output.shape[-1])
    if output.dtype == "float32":
        conversion.replace(output, ones)
    elif output.dtype == "bool":
        conversion.op("LESS", conversion.constant(0), ones, output=output)
    else:
        raise refused(op, "its output has the type int8")


def as_bits(conversion: Conversion, packed: Tensor, shape: Sequence[int]) -> Tensor:
    """What a packed tensor holds as 6 for -1 and 0 for +1, float32 in a shape."""
    signs = conversion.signs[packed]
    bits = signs.source
    if not signs.is_bits:
        relu6 = enum("ActivationFunctionType")["RELU6"]
        factor = conversion.constant(-_LARGE)
        bits = conversion.op("MUL", bits, factor, fusedActivationFunction=relu6)
    return conversion.reshape(bits, shape)


def as_ones(conversion: Conversion, packed: Tensor, shape: Sequence[int]) -> Tensor:
    """What a packed tensor holds as -1 and +1, float32 in a shape."""
    bits = as_bits(conversion, packed, conversion.signs[packed].source.shape)
    # Exact: 6 times the float next to 1/3 rounds to 2.
    halves = conversion.op("MUL", bits, conversion.constant(np.float32(-2 / ON)))
    return conversion.reshape(conversion.op("ADD", halves, conversion.constant(1)), shape)


def channels_of(conversion: Conversion, op: Operator, packed: Tensor) -> int:
    """The number of signs along the last axis of an operator's packed input.

    # Raises
        EnsembleError: if its integers hold parts of rows.
    """
    if packed not in conversion.signs:
        raise refused(op, "its input is packed by no operator")
    channels = conversion.signs[packed].channels(packed)
    if channels is None:
        raise refused(op, "its input holds parts of the signs of a pixel")
    return channels
