"""Operators that move packed words without looking into them.

The signs keep their order under RESHAPE, EXPAND_DIMS, SQUEEZE and BITCAST, so nothing is left of
these. CAST widens integers, and with them the rows that hold the signs.
"""

from __future__ import annotations

import dataclasses

from larq_ensemble.ir.graph import Operator
from larq_ensemble.legalization.conversion import Conversion, refused
from larq_ensemble.legalization.packed import Signs
from larq_ensemble.tflite.rules import BITS

_VIEWS = {"BITCAST", "EXPAND_DIMS", "RESHAPE", "SQUEEZE"}


def move(conversion: Conversion, op: Operator) -> None:
    """Replaces an operator that reads packed words."""
    if op.name in _VIEWS:
        conversion.signs[op.outputs[0]] = conversion.signs[op.operands[0]]
    elif op.name == "CAST":
        conversion.signs[op.outputs[0]] = _widened(conversion, op)
    else:
        raise refused(op, "it reads bit-packed signs")


def _widened(conversion: Conversion, op: Operator) -> Signs:
    signs = conversion.signs[op.operands[0]]
    before, after = BITS[op.operands[0].dtype], BITS[op.outputs[0].dtype]
    if signs.row == signs.used:  # no gaps: any integer is a row
        signs = dataclasses.replace(signs, row=before, used=before)
    is_unsigned = op.operands[0].dtype.startswith("uint") or signs.used < before
    if signs.row != before or not is_unsigned or signs.used > after:
        raise refused(op, "it changes bit-packed signs")
    return dataclasses.replace(signs, row=after)
