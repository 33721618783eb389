"""Checks of images as arrays: what every reader of raw pixels takes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError


def checked_pixels(
    images: Any, input_shape: tuple[int, int, int], *, stacklevel: int = 2
) -> np.ndarray:
    """Checks images with raw pixels from 0 to 255.

    It warns if no pixel is above 1, as in images that were scaled to 0..1. Black images, which are
    0 on every scale, don't count.

    # Arguments
        images: `[n, height, width, channels]`, or one image `[height, width, channels]`: uint8, or
            other integers or floats from 0 to 255.
        input_shape: `(height, width, channels)`.
        stacklevel: as for `warnings.warn`; 2 is the caller's line.

    # Returns
        The images as an array `[n, height, width, channels]`.

    # Raises
        EnsembleError: for images of another shape, type or range.
    """
    images = np.asarray(images)
    if images.shape == input_shape:
        images = images[np.newaxis]
    if images.ndim != 4 or images.shape[1:] != input_shape:
        height, width, channels = input_shape
        raise EnsembleError(
            f"`images` must have the shape [n, {height}, {width}, {channels}]. "
            f"Received: {list(images.shape)}."
        )
    if images.dtype.kind not in "uif":
        raise EnsembleError(
            f"`images` must be uint8, or numbers from 0 to 255. Received: {images.dtype}."
        )
    if not images.size:
        return images
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 255):  # so that NaN is refused, too
        raise EnsembleError(
            "`images` must be raw pixels from 0 to 255: the file normalizes them itself. "
            f"Received: values from {low} to {high}."
        )
    if 0 < high <= 1:
        warnings.warn(
            f"No value of `images` is above {high}: the file expects raw pixels from 0 to 255 and "
            "normalizes them itself.",
            stacklevel=stacklevel,
        )
    return images
