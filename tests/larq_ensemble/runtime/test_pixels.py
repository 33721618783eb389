"""Raw pixels are told from scaled ones, whatever their type."""

import warnings

import numpy as np
import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.pixels import checked_pixels

SHAPE = (2, 2, 1)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "uint16", "float16", "float64"])
def test_zeros_and_ones_are_no_pixels(dtype: str) -> None:
    images = np.array([0, 1, 1, 0], dtype).reshape(1, *SHAPE)
    with pytest.warns(UserWarning, match=r"above 1.*expects raw pixels") as caught:
        assert checked_pixels(images, SHAPE) is images
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked_pixels(images * 0, SHAPE)  # black
        checked_pixels(images * 100, SHAPE)
        checked_pixels(images[:0], SHAPE)


def test_one_image_and_lists() -> None:
    assert checked_pixels([[[0], [255]], [[7], [9]]], SHAPE).shape == (1, *SHAPE)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((1, 2, 2, 1), np.nan), "from nan to nan"),
        (np.full((1, 2, 2, 1), 256), "from 256 to 256"),
        (np.full((1, 2, 2, 1), -0.5), "from -0.5 to -0.5"),
        (np.zeros((1, 2, 2, 3)), r"shape \[n, 2, 2, 1\]"),
        (np.zeros((1, 2, 2, 1), bool), "bool"),
    ],
)
def test_no_pixels(images, message: str) -> None:
    with pytest.raises(EnsembleError, match=message):
        checked_pixels(images, SHAPE)
