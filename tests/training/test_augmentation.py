"""Augmentation against Keras's preprocessing layers and NumPy, and its draws."""

import numpy as np
import pytest

from larq_ensemble.data.augmentation import Augmentation
from larq_ensemble.keras import keras, tf
from larq_ensemble.training.augmentation import (
    augmenter,
    brighten,
    change_contrast,
    turn_and_zoom,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 12, 9, 3), dtype=np.uint8)
SHAPE = IMAGES.shape[1:]


def seed(number):
    return tf.constant([3, number], tf.int64)


@pytest.mark.parametrize(
    ("change", "layer", "values"),
    [
        (
            lambda images, angles: turn_and_zoom(images, angles * 2 * np.pi, tf.ones_like(angles)),
            lambda value: keras.layers.RandomRotation((value, value)),
            [0.03, -0.04, 0.25, 0.0],
        ),
        (
            lambda images, zooms: turn_and_zoom(images, tf.zeros_like(zooms), 1 + zooms),
            lambda value: keras.layers.RandomZoom((value, value), (value, value)),
            [0.1, -0.1, 0.5, 0.0],
        ),
        (
            brighten,
            lambda value: keras.layers.RandomBrightness((value, value)),
            [0.2, -0.2, 0.9, 0.0],
        ),
    ],
)
def test_each_image_is_changed_as_by_keras_s_layer(change, layer, values):
    """A layer whose range is one value has one image to change."""
    images = IMAGES[: len(values)]
    changed = change(images, tf.constant(values)).numpy()
    for image, value, actual in zip(images, values, changed):
        expected = layer(value)(image[np.newaxis].astype(np.float32), training=True)[0]
        np.testing.assert_allclose(actual, expected, atol=0.05)


def test_contrast_is_as_tensorflow_s():
    """Keras's layer, which draws once for a whole batch, calls the same function."""
    factors = np.array([0.8, 1.2, 3.0, 0.0], np.float32)
    expected = [
        tf.clip_by_value(tf.image.adjust_contrast(image.astype(np.float32), factor), 0, 255)
        for image, factor in zip(IMAGES, factors)
    ]
    actual = change_contrast(IMAGES, tf.constant(factors))
    np.testing.assert_allclose(actual, expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["flip", "crop", "rand", "mix"])
def test_the_seed_alone_decides(kind):
    augment = tf.function(augmenter(Augmentation.of_kind(kind, SHAPE), SHAPE))
    images = np.concatenate([IMAGES] * 4)
    once, again, other = (augment(images, seed(number)).numpy() for number in (1, 1, 2))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)
    assert once.dtype == (np.float32 if kind in ("rand", "mix") else np.uint8)
    assert once.shape == images.shape
    assert once.min() >= 0
    assert once.max() <= 255
    # Copies of one image have draws of their own.
    assert len({image.tobytes() for image in once[::4]}) > 1


def test_padding_may_differ_between_rows_and_columns():
    augment = augmenter(Augmentation(pad=(0, 2)), SHAPE)
    padded = np.pad(IMAGES, [(0, 0), (0, 0), (2, 2), (0, 0)])
    for number in range(5):
        for image, around in zip(augment(IMAGES, seed(number)).numpy(), padded):
            assert any(np.array_equal(image, around[:, left : left + 9]) for left in range(5))


def test_draws_are_uniform_within_the_range():
    """Brightness shows its draw: all of a grey image is changed alike."""
    grey = np.full((2000, 1, 1, 1), 100, np.uint8)
    augment = augmenter(Augmentation(brightness=0.2), (1, 1, 1))
    shares = (augment(grey, seed(0)).numpy().ravel() - 100) / 255
    counts, _ = np.histogram(shares, bins=4, range=(-0.2, 0.2))
    assert counts.sum() == 2000  # none outside
    assert counts.min() > 400


def test_mixup_has_the_expected_gradient_of_zhang_et_al():
    """Of a linear classifier; theirs in NumPy with the labels of both images, by many draws."""
    alpha, count, draws = 0.4, 3, 20_000
    pixels = np.array([[20.0, 200.0], [250.0, 90.0], [120.0, 10.0]])
    weights = np.array([[0.02, -0.01, 0.0], [-0.01, 0.01, 0.005]])

    def gradient(mixed, labels):
        scores = np.exp(mixed @ weights)
        return scores / scores.sum(-1, keepdims=True) - np.eye(count)[labels]

    generator = np.random.default_rng(0)
    own = np.repeat(np.arange(count), draws)
    other = generator.integers(0, count, len(own))
    share = generator.beta(alpha, alpha, len(own))[:, None]
    mixed = share * pixels[own] + (1 - share) * pixels[other]
    of_logits = share * gradient(mixed, own) + (1 - share) * gradient(mixed, other)
    expected = np.einsum("np,nk->pk", mixed, of_logits) / len(own)

    # Many copies: a partner is any of the three with probability 1/3.
    augment = augmenter(Augmentation(mixup=alpha), (1, 2, 1))
    images = pixels[own].astype(np.uint8).reshape(-1, 1, 2, 1)
    mixed = augment(images, seed(0)).numpy().reshape(-1, 2)
    actual = np.einsum("np,nk->pk", mixed, gradient(mixed, own)) / len(own)
    # Both are means of 60,000 gradients, with standard errors of some 0.4.
    np.testing.assert_allclose(actual, expected, atol=2)
    unmixed = np.einsum("np,nk->pk", pixels[own], gradient(pixels[own], own)) / len(own)
    assert np.abs(unmixed - expected).max() > 8
