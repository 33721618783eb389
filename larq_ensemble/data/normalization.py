"""Normalization of pixels to the input of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError


@dataclass(frozen=True)
class Normalization:
    r"""Shifts and scales each channel of an image.

    \\[ y = \frac{x / 255 - \text{mean}}{\text{std}} = x \cdot \text{scale} + \text{offset} \\]

    for pixels x from 0 to 255. The second form is computed, in float32, so that training,
    evaluation and the converted file round alike.

    # Arguments
        mean, std: one number per channel, of pixels on the scale 0..1; `std` is positive.

    # Raises
        EnsembleError: for numbers that are not finite, a `std` that is not positive, or different
            numbers of channels.
    """

    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = np.asarray(getattr(self, name), np.float64)
            if values.ndim != 1 or not values.size:
                raise _wrong(name, "numbers", values)
            if not np.isfinite(values).all():
                raise _wrong(name, f"{len(values)} numbers", values)
            object.__setattr__(self, name, tuple(values.tolist()))
        if min(self.std) <= 0:
            raise EnsembleError(f"`std` must be positive. Received: {list(self.std)}.")
        if len(self.mean) != len(self.std):
            shorter = min(("mean", "std"), key=lambda name: len(getattr(self, name)))
            self._check(shorter, max(len(self.mean), len(self.std)))

    def check_channels(self, channels: int) -> None:
        """Checks that it fits images with this number of channels.

        # Raises
            EnsembleError: if it does not.
        """
        self._check("mean", channels)

    def _check(self, name: str, channels: int) -> None:
        if len(values := getattr(self, name)) != channels:
            raise _wrong(name, f"{channels} numbers", values)

    @cached_property
    def scale(self) -> np.ndarray:
        """1 / (255 std), float32 `[channels]`."""
        return (1 / (255 * np.asarray(self.std))).astype(np.float32)

    @cached_property
    def offset(self) -> np.ndarray:
        """-mean / std, float32 `[channels]`."""
        return (-np.asarray(self.mean) / np.asarray(self.std)).astype(np.float32)

    def __call__(self, images: Any) -> Any:
        """Normalizes images.

        # Arguments
            images: pixels from 0 to 255, `[..., channels]`: a NumPy array of any type, or a tensor
                of float32.

        # Returns
            float32 of the same shape.
        """
        if isinstance(images, np.ndarray):
            images = images.astype(np.float32)
        return images * self.scale + self.offset


def _wrong(name: str, expected: str, values: np.ndarray | Sequence[float]) -> EnsembleError:
    received = np.asarray(values).tolist()
    return EnsembleError(
        f"`{name}` must hold {expected}, finite and one per channel. Received: {received}."
    )
