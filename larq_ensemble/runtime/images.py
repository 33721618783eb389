"""Reads image files as arrays of the size and channels that a network takes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from larq_ensemble.errors import EnsembleError, first_line

_MODES = {1: "L", 3: "RGB"}

#: EXIF orientation -> what turns the image upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: EXIF orientations that exchange height and width. Others than 1 to 8 are of no meaning.
_TURNED = (5, 6, 7, 8)
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F")

#: Formats whose whole numbers of mode `I` have 16 bits; Pillow scales those of PGM to 16.
_FORMATS_OF_16_BITS = ("PNG", "PPM")
_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257


def read_image(
    path: str | os.PathLike[str] | IO[bytes], input_shape: tuple[int, int, int]
) -> np.ndarray:
    """Reads an image file of any format that Pillow knows; of an animation, the first frame.

    The image is turned as its EXIF orientation says (if that can't be read, it stays as it is),
    then cropped and resized by `fit_image`.

    # Arguments
        path: the image file, or an open one.
        input_shape: `(height, width, channels)`, 1 or 3 channels.

    # Returns
        uint8 `[height, width, channels]`.

    # Raises
        EnsembleError: if the file is missing, no image, damaged or of more than 178 million pixels,
            if its pixels have no range that its mode says (`fit_image`), or if the network doesn't
            take 1 or 3 channels.
    """
    check_channels(input_shape)
    try:
        with Image.open(path) as file:
            file.load()  # a PNG may have its EXIF data at the end; of a TIFF Pillow turns it now
            turn = _UPRIGHT.get(_orientation(file) or 1)
            image = _with_8_bits(file)
            return fit_image(image if turn is None else image.transpose(turn), input_shape)
    except FileNotFoundError as error:
        raise EnsembleError(f"There is no image file {str(path)!r}: check the path.") from error
    except IsADirectoryError as error:
        raise EnsembleError(
            f"{str(path)!r} is a folder: give the image files in it, such as "
            f"{os.path.join(str(path), '*.png')!r}."
        ) from error
    except PermissionError as error:
        raise EnsembleError(
            f"Can't read {str(path)!r} ({error.strerror}): give an image file that you may read."
        ) from error
    except EnsembleError as error:
        raise EnsembleError(f"Can't use {str(path)!r}: {error}") from error
    # What a decoder raises depends on the format and the damage: a dozen types are known.
    except Exception as error:
        raise EnsembleError(
            f"Can't read {str(path)!r} as an image ({first_line(error)}): give a whole PNG, JPEG "
            "or other image file."
        ) from error


def image_size(path: str | os.PathLike[str]) -> tuple[int, int, int]:
    """(height, width, channels) of an image file, turned upright; mostly without decoding it.

    # Returns
        1 channel for grey images and 3 for others.

    # Raises
        OSError: or another error of Pillow, for a damaged file.
    """
    with Image.open(path) as file:
        width, height = file.size
        if file.format == "TIFF":  # Pillow from 11 on gives its size turned
            width, height = file.tag_v2[_TIFF_WIDTH], file.tag_v2[_TIFF_HEIGHT]
        is_turned = width != height and _orientation(file) in _TURNED
        size = (width, height) if is_turned else (height, width)
        return *size, 1 if file.mode in _GREY else 3


def check_channels(input_shape: tuple[int, int, int]) -> None:
    """# Raises
    EnsembleError: if it is no shape, or a network doesn't take images: 1 or 3 channels.
    """
    if np.shape(input_shape) != (3,):
        raise EnsembleError(
            f"`input_shape` must be (height, width, channels), got {input_shape!r}: give the "
            "`input_shape` of the EnsembleInterpreter."
        )
    channels = input_shape[2]
    if channels not in _MODES:
        raise EnsembleError(
            f"Images have 1 or 3 channels, this network takes {channels}: "
            "call EnsembleInterpreter.predict with arrays instead."
        )


def fit_image(image: Image.Image, input_shape: tuple[int, int, int]) -> np.ndarray:
    """Crops and resizes an image to the input of a network.

    The crop is the largest one in the middle of the image that has the network's aspect ratio. It
    is resized by antialiased bilinear interpolation. Colors become RGB, or grey for a network with
    one channel. Transparency is dropped, as TensorFlow's decoders do. Pixels of 16 bits are scaled
    to 8.

    # Arguments
        image: of any size and mode but 32-bit numbers.
        input_shape: `(height, width, channels)`, 1 or 3 channels.

    # Returns
        uint8 `[height, width, channels]`.

    # Raises
        EnsembleError: for pixels of 32 bits, integers or floats, because no mode says where their
            white is, or if the network doesn't take 1 or 3 channels.
    """
    check_channels(input_shape)
    height, width, channels = input_shape
    fitted = ImageOps.fit(
        _with_8_bits(image).convert(_MODES[channels]),
        (width, height),
        method=Image.Resampling.BILINEAR,
    )
    return np.asarray(fitted, np.uint8).reshape(input_shape)


def _with_8_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel: Pillow would clip larger numbers to 255."""
    if image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})  # of a TIFF
        white = 2 ** max(tags.get(_TIFF_BITS, (16,))) - 1
        pixels = np.asarray(image) / white
        if tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:
            pixels = 1 - pixels
    elif image.mode == "I" and image.format in _FORMATS_OF_16_BITS:
        pixels = np.asarray(image) / (2**16 - 1)
    elif image.mode in ("I", "F"):
        kind = "floats" if image.mode == "F" else "32-bit integers"
        raise EnsembleError(
            f"The image's pixels are {kind}, and nothing says which number is white: "
            "convert it to 8 or 16 bits."
        )
    else:
        return image
    return Image.fromarray(np.rint(255 * pixels).astype(np.uint8))


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # broken metadata of a good image: viewers show it as it is, too
        return None


def read_images(
    paths: Iterable[str | os.PathLike[str]], input_shape: tuple[int, int, int]
) -> np.ndarray:
    """Reads image files as `read_image` does.

    # Arguments
        paths: a list of files.
        input_shape: `(height, width, channels)`, 1 or 3 channels.

    # Returns
        uint8 `[n, height, width, channels]`.

    # Raises
        EnsembleError: as `read_image`, for the first file that can't be read.
    """
    if isinstance(paths, (str, bytes, os.PathLike)):
        raise EnsembleError(f"`paths` must be a list of files, got {paths!r}: give [{paths!r}].")
    images = [read_image(path, input_shape) for path in paths]
    return np.stack(images) if images else np.empty((0, *input_shape), np.uint8)
