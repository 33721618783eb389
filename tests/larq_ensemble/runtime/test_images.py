"""Image files become arrays of the network's size, and bad files raise clear errors."""

from __future__ import annotations

import contextlib
import errno
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image, ImageOps

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.images import fit_image, image_size, read_image, read_images

#: Pillow 12, the last for Python 3.10, can't read the first, and no orientation beside the other.
FROM_PILLOW_13 = pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="Pillow < 13")


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
    """A fine black and white pattern becomes grey."""
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


@pytest.mark.parametrize("name", ["deep.png", "deep.tiff", "deep.jp2"])
def test_16_bit_pixels_are_scaled(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / name, np.full((4, 4), 257 * 100, np.uint16))
    assert (read_image(path, (4, 4, 1)) == 100).all()


@pytest.mark.parametrize(("white", "pixel", "expected"), [(65535, 25700, 100), (1023, 401, 100)])
def test_pgm_files_of_more_than_8_bits(
    tmp_path: Path, white: int, pixel: int, expected: int
) -> None:
    """They became white: every number above 255 was clipped."""
    path = tmp_path / "deep.pgm"
    path.write_bytes(b"P5 4 4 %d\n" % white + pixel.to_bytes(2, "big") * 16)
    assert (read_image(path, (4, 4, 1)) == expected).all()


def tiff_table(entries: list[tuple[int, int, int, bytes]]) -> bytes:
    """A TIFF header and table of (tag, type, count, value), as EXIF data have it, too."""
    table = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in sorted(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + b"\0" * 4


def test_tiff_files_of_12_bits_and_with_a_white_zero(tmp_path: Path) -> None:
    """Two 12-bit pixels take three bytes: 0x321 and 0x654."""

    def tiff(bits: int, photometric: int, data: bytes) -> Path:
        entries = {256: 2, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 200, 277: 1, 278: 1}
        tags = [(tag, 3, 1, struct.pack("<I", value)) for tag, value in entries.items()]
        tags.append((279, 3, 1, struct.pack("<I", len(data))))
        path = tmp_path / "odd.tiff"
        path.write_bytes(tiff_table(tags).ljust(200, b"\0") + data)
        return path

    twelve = read_image(tiff(12, 1, bytes([0x32, 0x16, 0x54])), (1, 2, 1)).ravel().tolist()
    assert twelve == [round(0x321 * 255 / 4095), round(0x654 * 255 / 4095)]
    inverted = read_image(tiff(16, 0, b"\0\0\xff\xff"), (1, 2, 1)).ravel().tolist()
    assert inverted == [255, 0]


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [
        (np.full((4, 4), 0.5, np.float32), "floats"),
        (np.full((4, 4), 200.0, np.float32), "floats"),
        (np.full((4, 4), 1000, np.int32), "32-bit integers"),
    ],
)
def test_pixels_without_a_range_are_refused(tmp_path: Path, pixels: np.ndarray, kind: str) -> None:
    """Floats from 0 to 1 became black, and integers white."""
    with pytest.raises(EnsembleError, match=rf"wide\.tiff.* {kind}.* convert it to 8 or 16 bits"):
        read_image(saved(tmp_path / "wide.tiff", pixels), (4, 4, 1))
    with pytest.raises(EnsembleError, match=kind):
        fit_image(Image.fromarray(pixels), (4, 4, 3))


@pytest.mark.parametrize(
    ("mode", "name", "tolerance"),
    [
        ("RGB", "red.jpg", 3),
        ("P", "red.gif", 0),
        ("P", "red.png", 0),
        ("RGBA", "red.png", 0),
        ("RGBA", "red.webp", 3),
        ("CMYK", "red.jpg", 3),
        ("CMYK", "red.tiff", 0),
        pytest.param("YCbCr", "red.tiff", 2, marks=FROM_PILLOW_13),
    ],
)
def test_red_is_red_in_every_mode(tmp_path: Path, mode: str, name: str, tolerance: int) -> None:
    Image.new("RGB", (8, 8), (255, 0, 0)).convert(mode).save(tmp_path / name)
    read = read_image(tmp_path / name, (8, 8, 3)).astype(int)
    assert np.abs(read - (255, 0, 0)).max() <= tolerance


@pytest.mark.parametrize(("mode", "value"), [("1", 1), ("L", 255), ("LA", (255, 128))])
def test_white_is_white_in_gray_modes(tmp_path: Path, mode: str, value: object) -> None:
    Image.new(mode, (8, 8), value).save(tmp_path / "white.png")
    for channels in (1, 3):
        assert (read_image(tmp_path / "white.png", (8, 8, channels)) == 255).all()


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (200, 10, 20)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / "moving.gif", (4, 4, 1)) == 200).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_as_pillow_turns_it(tmp_path: Path, orientation: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("turned.png", "turned.tiff"):
        Image.fromarray(pixels).save(tmp_path / name, exif=exif)
        with Image.open(tmp_path / name) as file:
            expected = np.asarray(ImageOps.exif_transpose(file))
        np.testing.assert_array_equal(read_image(tmp_path / name, (6, 6, 3)), expected)


@pytest.mark.parametrize("name", ["a.tiff", "a.jpg", "a.png", "a.webp"])
@pytest.mark.parametrize("orientation", range(10))
def test_the_size_of_a_turned_image(tmp_path: Path, name: str, orientation: int) -> None:
    """Pillow gives that of a TIFF turned already, since version 11. 0 and 9 mean nothing."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / name, exif=exif)
    upright = (30, 20, 3) if 5 <= orientation <= 8 else (20, 30, 3)
    assert image_size(tmp_path / name) == upright


def jpeg_with_tag(path: Path, tag: int, kind: int, count: int, value: bytes) -> Path:
    """A JPEG whose EXIF has the orientation 6 and one more tag, of any TIFF type."""
    entries = [(0x0112, 3, 1, b"\x06\0\0\0"), (tag, kind, count, value)]
    exif = tiff_table(entries) + b"\0" * 60
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:, :4] = 255
    Image.fromarray(pixels).save(path, exif=b"Exif\0\0" + exif, quality=100)
    return path


@pytest.mark.parametrize(
    ("tag", "kind", "count", "value"),
    [
        (0x0132, 5, 1, b"\x26\0\0\0"),  # a date that is a rational
        (0x011A, 2, 4, b"abc\0"),  # a resolution that is text
        (0x8769, 3, 1, b"\xff\xff\xff\xff"),  # a pointer out of the file
        (0x010F, 99, 1, b"\0\0\0\0"),  # an unknown type
        pytest.param(0x010F, 2, 0x7FFFFFFF, b"\xf0\xff\xff\x7f", marks=FROM_PILLOW_13),
    ],
)
def test_of_broken_exif_data_only_the_orientation_matters(
    tmp_path: Path, tag: int, kind: int, count: int, value: bytes
) -> None:
    """White on the left is white on top after the turn; the first two were tracebacks."""
    read = read_image(jpeg_with_tag(tmp_path / "a.jpg", tag, kind, count, value), (8, 8, 1))
    assert read[:3].min() > 200
    assert read[-3:].max() < 50


@pytest.mark.parametrize(
    "error",
    [
        KeyError(3), IndexError("list index"), TypeError("a bytes-like object"), struct.error("4"),
        zlib.error("-3"), AttributeError("tile"), NotImplementedError("DDS"), MemoryError(),
        ZeroDivisionError("division"), OverflowError("int too large"), RuntimeError("AVIF"),
        AssertionError(), Image.DecompressionBombError("too many pixels"), RecursionError("deep"),
    ],
)  # fmt: skip
def test_whatever_a_decoder_raises_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(self: Image.Image) -> None:
        raise error

    path = saved(tmp_path / "odd.png", np.zeros((4, 4), np.uint8))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(EnsembleError, match=r"Can't read '.*odd\.png' as an image \(\S") as raised:
        read_image(path, (4, 4, 1))
    assert raised.value.__cause__ is error


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "big.png", np.zeros((40, 40), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(EnsembleError, match=r"big\.png.*decompression bomb"):
        read_image(path, (4, 4, 1))


@pytest.mark.parametrize(
    "suffix", ["png", "jpg", "gif", "bmp", "tiff", "webp", "ppm", "ico", "dds"]
)
def test_damaged_images_are_read_or_refused(tmp_path: Path, suffix: str) -> None:
    draw = np.random.default_rng(0)
    path = saved(tmp_path / f"a.{suffix}", draw.integers(0, 256, (16, 16, 3), np.uint8))
    whole = path.read_bytes()
    for _ in range(25):
        damaged = bytearray(whole)
        for at in draw.integers(0, min(len(whole), 200), 4):
            damaged[at] = draw.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(EnsembleError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert read_image(path, (8, 8, 3)).shape == (8, 8, 3)


def test_several_images(tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{i}.png", np.full((5, 5, 3), i, np.uint8)) for i in range(3)]
    images = read_images(paths, (5, 5, 3))
    assert images.shape == (3, 5, 5, 3)
    assert images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert read_images([], (5, 5, 3)).shape == (0, 5, 5, 3)


def test_one_path_in_place_of_a_list(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    for one in (path, str(path)):
        with pytest.raises(EnsembleError, match=r"`paths` must be a list of files, .*: give \["):
            read_images(one, (4, 4, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(32, 32), 32, (None, 32, 32, 3)])
def test_what_is_no_shape_of_an_image(shape: Any, tmp_path: Path) -> None:
    with pytest.raises(EnsembleError, match=r"`input_shape` must be \(height, width, channels\)"):
        read_images([tmp_path / "a.png"], shape)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("no image")
    with pytest.raises(EnsembleError, match=r"notes\.png.* as an image"):
        read_image(text, (4, 4, 3))
    with pytest.raises(EnsembleError, match=r"no image file.*missing\.png"):
        read_image(tmp_path / "missing.png", (4, 4, 3))
    with pytest.raises(EnsembleError, match=r"is a folder: give the image files.*'.*/\*\.png'"):
        read_image(tmp_path, (4, 4, 3))


def test_an_image_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(Image, "open", refuse)
    message = r"^Can't read '.*a\.png' \(Permission denied\): give an image file that you may read"
    with pytest.raises(EnsembleError, match=message):
        read_image(tmp_path / "a.png", (4, 4, 3))


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
