"""The geometry of LceBconv2d: which taps of a filter meet which pixels."""

from __future__ import annotations

from collections.abc import Mapping
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
        cls, shape: tuple[int, ...], kernel: tuple[int, ...], options: Mapping[str, int]
    ) -> tuple[Axis, Axis]:
        """Height and width.

        # Arguments
            shape: of the map, `[n, h, w, c]`.
            kernel: of the filters, `[out, h, w, c]`.
            options: of the LceBconv2d.
        """

        def axis(number: int, side: str) -> Axis:
            stride, dilation = options[f"stride_{side}"], options[f"dilation_{side}_factor"]
            return cls(shape[number], kernel[number], stride, dilation)

        return axis(1, "height"), axis(2, "width")

    @property
    def missing(self) -> int:
        """The pixels that the windows need beyond the map; below 0 if they leave some out."""
        extent = (self.kernel - 1) * self.dilation + 1
        return (self._outputs - 1) * self.stride + extent - self.size

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
