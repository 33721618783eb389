"""LceBMaxPool2d: a bit of the output is set if it is set in the whole window.

    signs -> MAX_POOL_2D of what the signs are of; of bits: NEG -> MAX_POOL_2D

Exact: the largest number of a window is below 0 if all are. Both leave padding out.
"""

from __future__ import annotations

from larq_ensemble.ir.graph import Operator
from larq_ensemble.legalization.conversion import Conversion
from larq_ensemble.legalization.packed import Signs
from larq_ensemble.legalization.signs import of_packed
from larq_ensemble.tflite.flexbuffer import read_integers


def pool(conversion: Conversion, op: Operator) -> None:
    """LceBMaxPool2d."""
    (packed,), (output,) = op.operands, op.outputs
    signs = of_packed(conversion, packed)
    channels = signs.channels(packed)
    numbers = conversion.op("NEG", signs.source) if signs.is_bits else signs.source
    options = read_integers(op.custom_options or b"")
    pooled = conversion.op(
        "MAX_POOL_2D",
        conversion.reshape(numbers, (*packed.shape[:-1], channels)),
        shape=(*output.shape[:-1], channels),
        padding=options["padding"],
        strideH=options["stride_height"],
        strideW=options["stride_width"],
        filterHeight=options["filter_height"],
        filterWidth=options["filter_width"],
    )
    conversion.signs[output] = Signs.of(pooled)
