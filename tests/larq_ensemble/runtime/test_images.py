"""Image files become arrays of the network's size, and bad files raise clear errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.images import fit_image, read_image, read_images


def saved(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_an_image_of_the_right_size_is_not_changed(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    read = read_image(saved(tmp_path / "a.png", pixels), (8, 6, 3))
    np.testing.assert_array_equal(read, pixels)
    assert read.dtype == np.uint8


def test_the_middle_is_cropped(tmp_path: Path) -> None:
    """Of a wide image with black sides only the white square in the middle is left."""
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    read = read_image(saved(tmp_path / "wide.png", pixels), (10, 10, 3))
    # The interpolation of the outermost pixels reaches a little beyond the cut.
    assert (read[:, 1:-1] == 255).all()
    assert (read > 200).all()


def test_resizing_is_antialiased(tmp_path: Path) -> None:
    """A fine black and white pattern becomes gray."""
    pixels = np.indices((64, 64)).sum(axis=0).astype(np.uint8) % 2 * 255
    read = read_image(saved(tmp_path / "fine.png", pixels), (8, 8, 1))
    assert (np.abs(read.astype(int) - 127) < 10).all()


def test_color_and_gray(tmp_path: Path) -> None:
    colour = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    path = saved(tmp_path / "red.png", colour)
    # ITU-R 601: 0.299 of red.
    assert (read_image(path, (4, 4, 1)) == 76).all()
    grey = saved(tmp_path / "grey.png", np.full((4, 4), 9, np.uint8))
    assert (read_image(grey, (4, 4, 3)) == 9).all()


def test_16_bit_pixels_are_scaled(tmp_path: Path) -> None:
    path = saved(tmp_path / "deep.png", np.full((4, 4), 257 * 100, np.uint16))
    assert (read_image(path, (4, 4, 1)) == 100).all()


def test_several_images(tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{i}.png", np.full((5, 5, 3), i, np.uint8)) for i in range(3)]
    images = read_images(paths, (5, 5, 3))
    assert images.shape == (3, 5, 5, 3)
    assert images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert read_images([], (5, 5, 3)).shape == (0, 5, 5, 3)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("no image")
    with pytest.raises(EnsembleError, match=r"notes\.png.* as an image"):
        read_image(text, (4, 4, 3))
    with pytest.raises(EnsembleError, match=r"no image file.*missing\.png"):
        read_image(tmp_path / "missing.png", (4, 4, 3))
    with pytest.raises(EnsembleError, match="as an image"):
        read_image(tmp_path, (4, 4, 3))


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp"])
def test_truncated_images_are_refused(tmp_path: Path, suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    path = saved(tmp_path / f"a.{suffix}", pixels)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(EnsembleError, match="as an image"):
        read_image(path, (8, 8, 3))


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(EnsembleError, match="1 or 3 channels, this network takes 5"):
        fit_image(Image.new("RGB", (4, 4)), (4, 4, 5))


def test_a_file_for_another_number_of_channels_is_not_called_unreadable(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "whole.png")
    with pytest.raises(EnsembleError, match=r"^Images have 1 or 3 channels, this network takes 5"):
        read_image(tmp_path / "whole.png", (4, 4, 5))
