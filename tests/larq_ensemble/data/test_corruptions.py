"""Corruptions against values by hand, Pillow and properties of their published definitions."""

from __future__ import annotations

import colorsys
import functools
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from larq_ensemble.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt, kinds_named
from larq_ensemble.errors import EnsembleError

pytest.importorskip("scipy")
sklearn_datasets = pytest.importorskip("sklearn.datasets")

KINDS = pytest.mark.parametrize("kind", list(CORRUPTIONS))


@functools.cache
def photos(n: int = 6) -> np.ndarray:
    """Pieces of two photos, 32x32."""
    pieces = []
    for photo in sklearn_datasets.load_sample_images().images:
        small = np.asarray(Image.fromarray(photo).resize((224, 128), Image.Resampling.BOX))
        pieces.append(small.reshape(4, 32, 7, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3))
    images = np.concatenate(pieces)[:: 56 // n][:n]
    images.setflags(write=False)
    return images


def distance(changed: np.ndarray, images: np.ndarray) -> float:
    return float(np.abs(changed.astype(float) - images).mean())


def test_the_kinds_are_those_of_cifar_c() -> None:
    assert kinds_named(["all"]) == [
        *("gaussian_noise", "shot_noise", "impulse_noise"),
        *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
        *("snow", "frost", "fog", "brightness"),
        *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    ]
    assert kinds_named(["fog", "noise", "shot_noise"]) == [*kinds_named(["noise"]), "fog"]
    with pytest.raises(EnsembleError, match=r"Unknown `shift` 'mist'\. Known: all, blur"):
        kinds_named(["fog", "mist"])


@KINDS
def test_a_severity_changes_images_more_than_the_one_before(kind: str) -> None:
    images = photos(24)
    distances = [distance(corrupt(images, kind, severity), images) for severity in SEVERITIES]
    assert min(distances) > 0.2
    if kind == "elastic_transform":
        # CIFAR-C's severities bend more and move less.
        assert distances == sorted(distances, reverse=True)
    elif kind in ("glass_blur", "frost", "snow"):
        # Of several parameters some get smaller: less blur twice, more ice on a darker image.
        assert distances[4] > distances[0]
    else:
        assert distances == sorted(distances)


@KINDS
def test_seeds_and_the_number_of_images(kind: str) -> None:
    images = photos()
    changed = corrupt(images, kind, 3, seed=1)
    np.testing.assert_array_equal(corrupt(images, kind, 3, seed=1), changed)
    np.testing.assert_array_equal(corrupt(images[:2], kind, 3, seed=1), changed[:2])
    depends = kind not in (
        *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"),
    )
    assert (corrupt(images, kind, 3, seed=2) != changed).any() == depends


@KINDS
@pytest.mark.parametrize("shape", [(2, 8, 8, 1), (1, 1, 1, 3), (3, 45, 30, 3), (0, 32, 32, 1)])
def test_any_size_of_grey_and_coloured_images(kind: str, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    before = images.copy()
    for severity in (1, 5):
        changed = corrupt(images, kind, severity)
        assert changed.dtype == np.uint8
        assert changed.shape == shape
    np.testing.assert_array_equal(images, before)


def test_parts_are_corrupted_as_the_whole(monkeypatch) -> None:
    images = photos(5)
    whole = {kind: corrupt(images, kind, 4) for kind in CORRUPTIONS}
    monkeypatch.setattr("larq_ensemble.data.corruptions._CHUNK", 2 * 32 * 32 * 3)
    for kind, expected in whole.items():
        np.testing.assert_array_equal(corrupt(images, kind, 4), expected)


def test_lengths_grow_with_the_images() -> None:
    """What is twice as large is blurred twice as far: scaled down, both are the same."""
    small = photos(4)
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    for kind in ("defocus_blur", "zoom_blur"):
        halved = corrupt(large, kind, 5).reshape(4, 32, 2, 32, 2, 3).mean(axis=(2, 4))
        assert distance(halved, corrupt(small, kind, 5)) < 1.5 < distance(halved, small)


@pytest.mark.parametrize("kind", ["defocus_blur", "zoom_blur", "brightness", "contrast"])
def test_the_program_of_cifar_c_makes_the_same(kind: str) -> None:
    """Of an image of waves, edges and black: by `make_cifar_c.py` at revision 8190fe3."""
    golden = np.load(Path(__file__).with_name("cifar_c.npz"))
    image = golden["image"]
    for severity, expected in zip(golden["severities"], golden[kind], strict=True):
        changed = corrupt(image[np.newaxis], kind, int(severity))[0]
        # It cuts off what is rounded here.
        assert np.abs(changed.astype(int) - expected).max() <= 1
        assert distance(expected, image) > 1  # a level apart is no coincidence


def test_brightness_by_colorsys() -> None:
    color, black, white = (200, 50, 100), (0, 0, 0), (255, 240, 250)
    changed = corrupt(np.array([[[color, black, white]]], np.uint8), "brightness", 3)[0, 0]
    hue, saturation, value = colorsys.rgb_to_hsv(*(each / 255 for each in color))
    expected = colorsys.hsv_to_rgb(hue, saturation, value + 0.15)
    assert changed[0].tolist() == [round(255 * each) for each in expected]
    assert changed[1].tolist() == [round(255 * 0.15)] * 3
    assert changed[2].tolist() == list(white)


def test_contrast_by_hand() -> None:
    image = np.array([[[[0], [100]], [[200], [100]]]], np.uint8)  # mean 100
    assert corrupt(image, "contrast", 5)[0, ..., 0].tolist() == [[85, 100], [115, 100]]


def test_pixelate_by_hand() -> None:
    """Of 4x4 at severity 5 two rows and columns remain, int(4 * 0.65)."""
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1) * 10
    low, high = 10 * (0 + 1 + 4 + 5) / 4, 10 * (10 + 11 + 14 + 15) / 4
    changed = corrupt(image, "pixelate", 5)[0, ..., 0]
    assert changed[0, 0] == changed[1, 1] == low
    assert changed[2, 2] == changed[3, 3] == high


def test_jpeg_by_pillow() -> None:
    image = photos(1)
    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, "JPEG", quality=40)
    np.testing.assert_array_equal(
        corrupt(image, "jpeg_compression", 5)[0], np.asarray(Image.open(file))
    )


def test_noise_has_its_published_strength() -> None:
    grey = np.full((4, 64, 64, 3), 128, np.uint8)
    added = (corrupt(grey, "gaussian_noise", 5).astype(float) - 128) / 255
    assert added.std() == pytest.approx(0.10, rel=0.02)
    assert added.mean() == pytest.approx(0, abs=0.002)
    shot = corrupt(grey, "shot_noise", 5) / 255
    assert shot.std() == pytest.approx(np.sqrt(128 / 255 / 50), rel=0.02)
    impulses = corrupt(grey, "impulse_noise", 5)
    assert np.mean(impulses == 255) == pytest.approx(0.035, abs=0.003)
    assert np.mean(impulses == 0) == pytest.approx(0.035, abs=0.003)


def test_blurs_of_a_point() -> None:
    point = np.zeros((8, 33, 33, 1), np.uint8)
    point[:, 16, 16] = 255
    disk = corrupt(point, "defocus_blur", 5)[0, ..., 0]  # radius 1.5: the nine pixels around it
    assert (disk[15:18, 15:18] == round(255 / 9)).all()
    assert disk.sum() == 9 * round(255 / 9)
    shaken = corrupt(point, "motion_blur", 5).astype(int)
    assert shaken.sum(axis=(1, 2, 3)) == pytest.approx(255, abs=8)
    # To the left of the point, at most 45 degrees up or down.
    down, right = np.nonzero(shaken.max(axis=0)[..., 0])
    assert (right <= 16).all()
    assert (np.abs(down - 16) <= 16 - right).all()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8, 3)), "must be uint8 .* Received: float64 of shape"),
        (np.zeros((8, 8, 3), np.uint8), "Received: uint8 of shape \\[8, 8, 3\\]"),
        (np.zeros((2, 8, 8, 4), np.uint8), "with 1 or 3 channels"),
    ],
)
def test_other_images_are_refused(images: np.ndarray, message: str) -> None:
    with pytest.raises(EnsembleError, match=f"`images` .*{message}"):
        corrupt(images, "fog", 1)


@pytest.mark.parametrize(("kind", "severity"), [("fog", 0), ("fog", 6), ("fog", 1.0), ("", 1)])
def test_other_kinds_and_severities_are_refused(kind: str, severity: int) -> None:
    with pytest.raises(EnsembleError, match=r"`severity` must be .* from 1 to 5|Unknown corr"):
        corrupt(photos(1), kind, severity)
