"""Reads image files as arrays of the size and channels that a network takes."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageOps

from larq_ensemble.errors import EnsembleError

_MODES = {1: "L", 3: "RGB"}


def read_image(path: str | os.PathLike[str], input_shape: tuple[int, int, int]) -> np.ndarray:
    """Reads an image file of any format that Pillow knows.

    The image is rotated as its EXIF data says, then cropped and resized by `fit_image`.

    # Arguments
        path: the image file.
        input_shape: `(height, width, channels)`, 1 or 3 channels.

    # Returns
        uint8 `[height, width, channels]`.

    # Raises
        EnsembleError: if the file is missing or is no image, or if the network doesn't take 1 or 3
            channels.
    """
    try:
        with Image.open(path) as file:
            return fit_image(ImageOps.exif_transpose(file), input_shape)
    except FileNotFoundError as error:
        raise EnsembleError(f"There is no image file {str(path)!r}: check the path.") from error
    except EnsembleError:  # a ValueError, but about the network
        raise
    # Which of these a damaged file raises depends on its format.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise EnsembleError(
            f"Can't read {str(path)!r} as an image ({error}): give a whole PNG, JPEG or other "
            "image file."
        ) from error


def fit_image(image: Image.Image, input_shape: tuple[int, int, int]) -> np.ndarray:
    """Crops and resizes an image to the input of a network.

    The crop is the largest one in the middle of the image that has the network's aspect ratio. It
    is resized by antialiased bilinear interpolation. Colors become RGB, or gray for a network with
    one channel; transparency is dropped.

    # Arguments
        image: of any size and mode.
        input_shape: `(height, width, channels)`, 1 or 3 channels.

    # Returns
        uint8 `[height, width, channels]`.

    # Raises
        EnsembleError: if the network doesn't take 1 or 3 channels.
    """
    height, width, channels = input_shape
    if channels not in _MODES:
        raise EnsembleError(
            f"Images have 1 or 3 channels, this network takes {channels}: "
            "call EnsembleInterpreter.predict with arrays instead."
        )
    # Pillow would clip 16-bit pixels to 255 instead of scaling them.
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    fitted = ImageOps.fit(
        image.convert(_MODES[channels]), (width, height), method=Image.Resampling.BILINEAR
    )
    return np.asarray(fitted, np.uint8).reshape(input_shape)


def read_images(
    paths: Iterable[str | os.PathLike[str]], input_shape: tuple[int, int, int]
) -> np.ndarray:
    """Reads image files as `read_image` does.

    # Returns
        uint8 `[n, height, width, channels]`.
    """
    images = [read_image(path, input_shape) for path in paths]
    return np.stack(images) if images else np.empty((0, *input_shape), np.uint8)
