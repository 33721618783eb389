"""Operators that move packed words without looking into them.

The signs keep their order under RESHAPE, EXPAND_DIMS, SQUEEZE and BITCAST, so nothing is left of
these. CAST widens integers, and with them the rows that hold the signs. All other operators get the
words.
"""

from __future__ import annotations

import dataclasses

from larq_ensemble.ir.graph import Operator
from larq_ensemble.legalization.conversion import Conversion
from larq_ensemble.legalization.packed import WORD, Signs
from larq_ensemble.legalization.signs import pack
from larq_ensemble.tflite.rules import BITS

_VIEWS = {"BITCAST", "EXPAND_DIMS", "RESHAPE", "SQUEEZE"}


def move(conversion: Conversion, op: Operator) -> None:
    """Replaces an operator that reads packed words."""
    signs = _moved(op, conversion.signs.get(op.operands[0]))
    if signs is not None:
        conversion.signs[op.outputs[0]] = signs
        return
    for tensor in op.operands:
        pack(conversion, tensor)
    conversion.keep(op)


def _moved(op: Operator, signs: Signs | None) -> Signs | None:
    """The signs behind an operator; `None` if it does more than to move them."""
    if signs is None or op.name in _VIEWS:
        return signs
    if op.name != "CAST" or op.outputs[0].dtype != "int32":
        return None
    before = BITS[op.operands[0].dtype]
    if signs.row == signs.used:  # no gaps: any integer is a row
        signs = dataclasses.replace(signs, row=before, used=before)
    is_unsigned = op.operands[0].dtype.startswith("u")
    return dataclasses.replace(signs, row=WORD) if is_unsigned and signs.row == before else None
