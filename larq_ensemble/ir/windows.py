"""The geometry of CONV_2D and LceBconv2d: which taps of a filter meet which pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Axis:
    """A window along the height or the width of a map, with padding "same".

    # Arguments
        size: of the map.
        kernel: taps of the filter.
        stride, dilation: steps between outputs, and between taps.
    """

    size: int
    kernel: int
    stride: int
    dilation: int

    @classmethod
    def both(
        cls,
        shape: Sequence[int],
        kernel: Sequence[int],
        strides: tuple[int, int],
        dilations: tuple[int, int],
    ) -> tuple[Axis, Axis]:
        """Height and width.

        # Arguments
            shape: of the map, `[n, h, w, c]`.
            kernel: of the filters, `[out, h, w, c]`.
            strides, dilations: along the height and the width.
        """
        height, width = (
            cls(shape[axis + 1], kernel[axis + 1], strides[axis], dilations[axis])
            for axis in (0, 1)
        )
        return height, width

    @property
    def extent(self) -> int:
        """The pixels from the first tap to the last."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def missing(self) -> int:
        """The pixels that the windows need beyond the map; below 0 if they leave some out."""
        return (self._outputs - 1) * self.stride + self.extent - self.size

    @property
    def padding(self) -> tuple[int, int]:
        """The pixels that are added before and behind."""
        total = max(self.missing, 0)
        return total // 2, total - total // 2

    def kinds(self) -> tuple[np.ndarray, np.ndarray]:
        """The different sets of taps that are inside the map, and which one each output has.

        # Returns
            1 and 0, float64 `[kinds, kernel]`, and int64 `[outputs]`.
        """
        first = np.arange(self._outputs) * self.stride - self.padding[0]
        places = first[:, np.newaxis] + np.arange(self.kernel) * self.dilation
        inside = ((places >= 0) & (places < self.size)).astype(np.float64)
        kinds, numbers = np.unique(inside, axis=0, return_inverse=True)
        return kinds, numbers.reshape(-1)  # NumPy 2.0 keeps the axes

    @property
    def _outputs(self) -> int:
        return -(-self.size // self.stride)
