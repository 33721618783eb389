"""Binary filters in the order in which the C kernel reads them, and what it needs besides."""

from __future__ import annotations

import numpy as np

from larq_ensemble.convert.targets.c.parts import window_members
from larq_ensemble.convert.targets.c.plan import BinaryConvolution
from larq_ensemble.errors import EnsembleError

#: Output channels that the kernel computes at once.
LANES = 32
# As in kernels/binary_convolution.h.
_ADDED_AT_ONCE, _BORDERS, _FEWEST_PLANES = 16, 3, 5
# Positions in a filter and in a row of the input have 16 bits, and sums are int16.
_MOST_BITS, _MOST_POSITIONS = 2**15 - 1, 2**16 - 1


def packed_filters(step: BinaryConvolution) -> np.ndarray:
    """The filters as words for `binary_sums`.

    32 output channels of a group, each a bit of a word, follow each other. First come the counters'
    first values, a word for each of their bits: minus the number of -1 in the filter. Then comes a
    word for each tap and input channel, with a bit set for -1, and a word of zeros.

    # Returns
        uint32 `[words]`, or if the filters are the members' own, `[members, words]`.

    # Raises
        EnsembleError: if a window, or a row of the input, has more bits than the kernel can number.
    """
    bits = _bits(step)
    planes = _planes(bits)
    positions = step.input.width * step.input.channels
    if bits > _MOST_BITS or positions > _MOST_POSITIONS:
        raise EnsembleError(
            f"{step.layer}: a window of {bits} signs in a row of {positions} is too large for the "
            f"C kernel, which takes up to {_MOST_BITS} in {_MOST_POSITIONS}."
        )
    per_group = step.channels // step.groups
    lane_words = _lane_words(step)
    negative = (step.filters.data < 0).reshape(-1, step.groups, per_group, bits)
    lanes = np.zeros((len(negative), step.groups, lane_words * LANES, bits), bool)
    lanes[:, :, :per_group] = negative
    first = -lanes.sum(axis=-1, keepdims=True) >> np.arange(planes) & 1
    zeros = np.zeros((*lanes.shape[:-1], 1), bool)
    rows = np.concatenate([first.astype(bool), lanes, zeros], axis=-1)
    by_word = rows.reshape(len(rows), step.groups * lane_words, LANES, -1)
    by_bit = np.moveaxis(by_word[:, :, _channel_of_lane()], 2, 3)
    packed = np.packbits(by_bit, axis=-1, bitorder="little")
    words = np.ascontiguousarray(packed).view("<u4").astype(np.uint32)
    return words.reshape((len(words), -1) if step.filters.by_member else -1)


def scratch_bytes(step: BinaryConvolution) -> int:
    """Bytes of scratch memory of `binary_sums`, a multiple of 4: bits of the input that are set, by
    row and for the window, first values of counters, and a pixel's sums."""
    window, image = step.window, step.input
    slots = (window.height - 1) * window.dilation_y + 1
    row = step.groups * (image.width + 1) + image.width * image.channels + 4
    bits = _bits(step)
    counters = _BORDERS * step.groups * _lane_words(step) * (8 if _planes(bits) <= 8 else 16)
    words = slots + _BORDERS * 2 + counters
    halves = step.channels + LANES + bits + _ADDED_AT_ONCE + slots * row
    return 4 * (words + -(-halves // 2))


def geometry(step: BinaryConvolution) -> dict[str, int]:
    """The members of the C struct `BinaryConvolution`."""
    return {
        "in_height": step.input.height,
        "in_width": step.input.width,
        "pixel_bits": step.input.pixel_bits,
        "group_channels": step.input.channels // step.groups,
        "channels": step.channels,
        "groups": step.groups,
        **window_members(step.window),
        "pads_with_ones": int(step.pads_with_ones),
        "planes": _planes(_bits(step)),
    }


def _bits(step: BinaryConvolution) -> int:
    """Of a filter."""
    return step.window.height * step.window.width * step.input.channels // step.groups


def _planes(bits: int) -> int:
    """Bits of a counter up to `bits`."""
    return max(bits.bit_length(), _FEWEST_PLANES)


def _lane_words(step: BinaryConvolution) -> int:
    """Words for a group's output channels."""
    return -(-(step.channels // step.groups) // LANES)


def _channel_of_lane() -> np.ndarray:
    """Where the kernel's transposition puts a lane: byte j of word k has lane 8 j + k, and the even
    bytes of a word come before the odd ones."""
    lanes = np.arange(LANES)
    return lanes % 8 * 4 + np.array([0, 2, 1, 3])[lanes // 8]
