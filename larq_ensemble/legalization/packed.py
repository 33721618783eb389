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

WORD = 32


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
        return cls(source, is_bits, -(-channels // WORD) * WORD, channels)

    def fit(self, packed: Tensor) -> bool:
        """Whether the last axis of a packed tensor is a row, or any rows without gaps."""
        return self.row in (_bits(packed), self.used)

    def channels(self, packed: Tensor) -> int:
        """The number of signs along the last axis of a packed tensor that they fit."""
        return self.used if self.row == _bits(packed) else _bits(packed)


def _bits(packed: Tensor) -> int:
    """The bits along the last axis."""
    return BITS[packed.dtype] * packed.shape[-1]
