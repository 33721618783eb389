"""What a tensor of bit-packed words becomes: a float tensor with the same signs, in the same order.

LCE packs a sign into a bit, set for -1, and starts a new word of 32 bits at each pixel. So a tensor
of words consists of rows of bits, of which the first ones are signs and the others 0. The words of
a row may be split into smaller integers (BITCAST), or a row's integers widened (CAST): the order of
the signs stays, only the rows change.
"""

from __future__ import annotations

from dataclasses import dataclass

from larq_ensemble.ir.graph import Tensor
from larq_ensemble.tflite.rules import BITS

_WORD = 32


@dataclass(frozen=True)
class Signs:
    """The signs that a packed tensor holds.

    # Arguments
        source: float32, as many numbers as there are signs: below 0 where the bit is set. If
            `is_bits`, 6 where it is set and 0 elsewhere.
        is_bits: see above.
        row: bits in a row of the packed tensor, with those that hold no sign.
        used: how many of them are signs; they come first.
    """

    source: Tensor
    is_bits: bool
    row: int
    used: int

    @classmethod
    def of(cls, source: Tensor, *, is_bits: bool = False) -> Signs:
        """The signs of a tensor that is packed along its last axis."""
        channels = source.shape[-1]
        return cls(source, is_bits, -(-channels // _WORD) * _WORD, channels)

    def channels(self, packed: Tensor) -> int | None:
        """The number of signs along the last axis of a packed tensor; `None` if there is none."""
        bits = BITS[packed.dtype] * packed.shape[-1]
        if self.row == bits:
            return self.used
        return bits if self.row == self.used else None
