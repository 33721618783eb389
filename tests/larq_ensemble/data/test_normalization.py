"""Normalization against exact arithmetic, and the same in NumPy and TensorFlow."""

from fractions import Fraction

import numpy as np
import pytest

from larq_ensemble.data.normalization import Normalization, normalization_named
from larq_ensemble.errors import EnsembleError

CIFAR = Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))


def test_every_pixel_against_fractions():
    pixels = np.arange(256, dtype=np.uint8)
    normalized = CIFAR(np.repeat(pixels[:, np.newaxis], 3, axis=1))
    assert (normalized.dtype, normalized.shape) == (np.float32, (256, 3))
    for channel, (mean, std) in enumerate(zip(CIFAR.mean, CIFAR.std)):
        for pixel in range(256):
            exact = (Fraction(pixel, 255) - Fraction(mean)) / Fraction(std)
            assert normalized[pixel, channel] == pytest.approx(float(exact), abs=1e-6)


def test_scale_and_offset_by_hand():
    normalization = Normalization([0.5, 0.25], [0.25, 0.5])
    np.testing.assert_allclose(normalization.scale, [4 / 255, 2 / 255], rtol=1e-7)
    np.testing.assert_array_equal(normalization.offset, np.float32([-2, -0.5]))
    assert normalization.scale.dtype == normalization.offset.dtype == np.float32
    assert normalization == Normalization((0.5, 0.25), (0.25, 0.5))


def test_tensorflow_rounds_as_numpy_does():
    from larq_ensemble.keras import tf

    images = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3), dtype=np.uint8)
    normalize = tf.function(lambda x: CIFAR(tf.cast(x, tf.float32)))
    np.testing.assert_array_equal(normalize(images).numpy(), CIFAR(images))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "float64"])
@pytest.mark.parametrize("normalization", [CIFAR, Normalization.raw(3)])
def test_pixels_of_any_type(normalization, dtype):
    from larq_ensemble.keras import keras, tf

    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3)).astype(dtype)
    exact = (pixels.astype(np.float64) / 255 - normalization.mean) / normalization.std
    dataset = tf.data.Dataset.from_tensor_slices(pixels).map(normalization)
    image = keras.Input((5, 5, 3), dtype=dtype)
    layers = keras.Model(image, normalization(image))
    results = {
        "array": normalization(pixels),
        "list": normalization(pixels.tolist()),
        "tensor": normalization(tf.constant(pixels)).numpy(),
        "dataset": np.stack([*dataset.as_numpy_iterator()]),
        "layers": layers(pixels).numpy(),
    }
    for name, normalized in results.items():
        assert normalized.dtype == np.float32, name
        np.testing.assert_allclose(normalized, exact, rtol=1e-5, atol=1e-5, err_msg=name)


def test_unusable_images():
    from larq_ensemble.keras import tf

    grey = np.zeros((2, 4, 4, 1), np.uint8)
    for images in (grey, tf.constant(grey)):
        with pytest.raises(EnsembleError, match=r"\[\.\.\., 3\].*Received: \[2, 4, 4, 1\]"):
            CIFAR(images)
    for nothing in ("photo.png", tf.data.Dataset.from_tensors(grey)):
        with pytest.raises(EnsembleError, match="must be an array or a tensor of numbers"):
            CIFAR(nothing)
    of_any_shape = tf.TensorSpec(None, tf.uint8)
    normalize = tf.function(CIFAR.__call__, input_signature=[of_any_shape])
    assert normalize(np.zeros((2, 3), np.uint8)).dtype == tf.float32


def test_pixels_that_were_divided_already(recwarn):
    pixels = np.arange(12, dtype=np.float32).reshape(2, 2, 3) / 11
    with pytest.warns(UserWarning, match=r"above 1\.0: pixels from 0 to 255") as warned:
        CIFAR(pixels)
    assert warned[0].filename == __file__
    for images in (pixels * 255, pixels * 0, pixels[:0], pixels.astype(np.uint8) * 2):
        CIFAR(images)
    assert not recwarn.list


def test_channels():
    CIFAR.check_channels(3)
    with pytest.raises(EnsembleError, match=r"`mean` must hold 1 numbers.*\[0\.4914, 0\.4822"):
        CIFAR.check_channels(1)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.1, float("nan")], [1, 1], r"`mean` must hold 2 numbers, finite and.*nan"),
        ([0.1], [float("inf")], r"`std` must hold 1 numbers, finite and.*inf"),
        ([], [], r"`mean` must hold numbers, finite and one per channel.*\[\]"),
        (0.5, [1], r"`mean` must hold numbers, finite and one per channel.*0\.5"),
        ([0.1, 0.2], [0.1, 0.0], r"`std` must be positive.*\[0\.1, 0\.0\]"),
        ([0.1], [-0.1], r"`std` must be positive"),
        ([0.1, 0.2], [0.1], r"`std` must hold 2 numbers.*\[0\.1\]"),
        ([0.1], [0.1, 0.2], r"`mean` must hold 2 numbers.*\[0\.1\]"),
        ([78], [0.3], r"`mean` must be that of pixels on the scale 0 to 1: .* by 255.*\[78\.0\]"),
        ([-0.1], [0.3], r"`mean` must be that of pixels on the scale 0 to 1"),
        ((127,), (57.0,), r"`mean` must be that of pixels.*\[127\.0\]"),
        ([0.5], [57.0], r"`std` must be that of pixels on the scale 0 to 1.*\[57\.0\]"),
        ("0.5", [0.3], r"`mean` must hold numbers.*'0\.5'"),
        (None, [0.3], r"`mean` must hold numbers.*None"),
        ([[0.5], [0.2, 0.1]], [0.3], r"`mean` must hold numbers"),
    ],
)
def test_unusable_numbers(mean, std, message):
    with pytest.raises(EnsembleError, match=message):
        Normalization(mean, std)


def test_raw_pixels_stay_as_they_are():
    raw = Normalization.raw(3)
    pixels = np.arange(256, dtype=np.uint8).reshape(-1, 1).repeat(3, axis=1)
    np.testing.assert_array_equal(raw(pixels), pixels)
    assert raw(pixels).dtype == np.float32
    assert raw.is_raw
    assert not Normalization([0.0], [1.0]).is_raw
    assert not CIFAR.is_raw


def test_close_up_to_rounding():
    assert CIFAR.is_close(Normalization(np.float32(CIFAR.mean), np.float32(CIFAR.std)))
    assert Normalization(**CIFAR.to_json()) == CIFAR
    assert not CIFAR.is_close(Normalization(CIFAR.mean, (0.2023, 0.1994, 0.2020)))
    assert not CIFAR.is_close(Normalization.raw(3))
    assert not CIFAR.is_close(Normalization.raw(1))


@pytest.mark.parametrize(
    ("text", "mean", "std"),
    [
        ("raw", (0, 0), (1 / 255, 1 / 255)),
        ("0..1", (0, 0), (1, 1)),
        ("-1..1", (0.5, 0.5), (0.5, 0.5)),
        ("dataset", (0.1, 0.2), (0.3, 0.4)),
        ("0.4/0.25", (0.4, 0.4), (0.25, 0.25)),
        ("0.4,0.5/0.25", (0.4, 0.5), (0.25, 0.25)),
    ],
)
def test_a_normalization_that_is_named(text, mean, std):
    named = normalization_named(text, 2, Normalization((0.1, 0.2), (0.3, 0.4)))
    assert (named.mean, named.std) == (mean, std)


def test_what_the_names_do_with_black_and_white():
    ends = np.array([[0], [255]])
    for text, expected in (("raw", [0, 255]), ("0..1", [0, 1]), ("-1..1", [-1, 1])):
        np.testing.assert_allclose(normalization_named(text, 1)(ends)[:, 0], expected, atol=1e-6)


@pytest.mark.parametrize("text", ["", "0.5", "a/b", "0.5/0.5/0.5", "/", "RAW"])
def test_a_name_of_no_normalization(text):
    with pytest.raises(EnsembleError, match=r"`normalization` must be raw, 0..1, -1..1"):
        normalization_named(text, 1)


def test_there_are_no_data_to_take_it_from():
    with pytest.raises(EnsembleError, match="'dataset' needs a data set: give `dataset`"):
        normalization_named("dataset", 1)
