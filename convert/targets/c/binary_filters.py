"""Binary filters in the order in which the C kernel reads them."""

from __future__ import annotations

import numpy as np

from larq_ensemble.convert.targets.c.plan import BinaryConvolution


def packed_filters(step: BinaryConvolution) -> np.ndarray:
    """The filters as words for `binary_sums`: the taps of a filter one after another, each padded
    to whole words.

    # Returns
        uint32 `[words]`, or if the filters are the members' own, `[members, words]`.
    """
    window = step.window
    channels = step.input.channels // step.groups
    signs = step.filters.data.reshape(-1, step.channels, window.height, window.width, channels)
    bits = np.zeros((*signs.shape[:-1], -(-channels // 32) * 32), np.uint8)
    bits[..., :channels] = signs < 0
    words = np.packbits(bits, axis=-1, bitorder="little").view("<u4").astype(np.uint32)
    return words.reshape((len(words), -1) if step.filters.by_member else -1)


def scratch_bytes(step: BinaryConvolution) -> int:
    """What `binary_sums` needs for `patch`, in bytes: a multiple of 4."""
    words = -(-step.input.channels // step.groups // 32)
    return 8 * words * step.window.height * step.window.width


def geometry(step: BinaryConvolution) -> dict[str, int]:
    """The members of the C struct `BinaryConvolution`."""
    window = step.window
    return {
        "in_height": step.input.height,
        "in_width": step.input.width,
        "pixel_bits": step.input.pixel_bits,
        "group_channels": step.input.channels // step.groups,
        "channels": step.channels,
        "groups": step.groups,
        "window_height": window.height,
        "window_width": window.width,
        "stride_y": window.stride_y,
        "stride_x": window.stride_x,
        "top": window.top,
        "left": window.left,
        "dilation_y": window.dilation_y,
        "dilation_x": window.dilation_x,
        "pads_with_ones": int(step.pads_with_ones),
    }
