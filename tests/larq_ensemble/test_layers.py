"""Layers against their formulas in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.keras import keras, tf
from larq_ensemble.layers import Bias, Mirror, PReLU, RPReLU, RSign

X = np.random.default_rng(0).normal(0, 1.5, (3, 4, 5, 2)).astype(np.float32)
THRESHOLD = np.array([0.5, -0.25], np.float32)
SHIFT, SLOPE, OFFSET = np.array([[0.5, -0.25], [-0.3, 0.2], [1.0, -2.0]], np.float32)


def test_rsign_is_one_from_the_threshold_on() -> None:
    layer = RSign()
    layer.build(X.shape)
    np.testing.assert_array_equal(layer.threshold, [0, 0])
    layer.set_weights([THRESHOLD])
    x = X.copy()
    x[0, 0, 0] = THRESHOLD
    y = layer(x).numpy()
    np.testing.assert_array_equal(y, np.where(x >= THRESHOLD, 1, -1))
    np.testing.assert_array_equal(y[0, 0, 0], [1, 1])


def test_the_gradient_of_rsign() -> None:
    """2 - 2 |x - threshold| up to a distance of 1, by both, with opposite signs."""
    layer = RSign()
    layer.build(X.shape)
    layer.set_weights([THRESHOLD])
    of_output = np.random.default_rng(1).normal(size=X.shape).astype(np.float32)
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(of_output * layer(x))
    of_x, of_threshold = tape.gradient(value, [x, layer.threshold])
    distance = np.abs(X - THRESHOLD)
    assert (distance > 1).any()
    expected = of_output * np.where(distance <= 1, 2 - 2 * distance, 0)
    np.testing.assert_allclose(of_x, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(of_threshold, -expected.sum(axis=(0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("x", [X, X[:, 0, 0]], ids=["images", "vectors"])
def test_rprelu(x: np.ndarray) -> None:
    layer = RPReLU()
    layer.build(x.shape)
    np.testing.assert_array_equal(layer.get_weights(), [[0, 0], [0.25, 0.25], [0, 0]])
    layer.set_weights([SHIFT, SLOPE, OFFSET])
    shifted = x - SHIFT
    expected = np.where(shifted > 0, shifted, SLOPE * shifted) + OFFSET
    np.testing.assert_allclose(layer(x), expected, rtol=1e-6, atol=1e-6)


def test_mirror() -> None:
    """As it is at first; with the columns turned round, as NumPy flips it."""
    layer = Mirror()
    np.testing.assert_array_equal(layer(X), X)
    assert not layer.trainable_weights
    layer.set_weights([np.arange(5)[::-1]])
    np.testing.assert_array_equal(layer(X), np.flip(X, 2))


def test_bias() -> None:
    layer = Bias()
    layer.build((None, 2))
    layer.set_weights([np.array([0.5, -2])])
    np.testing.assert_array_equal(layer(np.array([[1.0, 3.0]], np.float32)), [[1.5, 1.0]])


def test_prelu_is_saved_as_itself() -> None:
    """In inference it is Keras's."""
    layer = PReLU(shared_axes=[1], alpha_initializer=keras.initializers.Constant(0.25), name="a")
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(again) is PReLU
    again.build((None, 3))
    assert again.alpha.shape == (1,)
    for training in (None, False, True):
        values = again(np.array([[-2.0, 0.0, 3.0]], np.float32), training=training)
        np.testing.assert_array_equal(values, [[-0.5, 0, 3]])


@pytest.mark.parametrize("kind", [RSign, RPReLU, Bias])
def test_keras_knows_the_layers_and_their_shapes(kind: type[keras.layers.Layer]) -> None:
    layer = keras.layers.deserialize(keras.layers.serialize(kind(name="a")))
    assert type(layer) is kind
    assert layer.name == "a"
    output = layer(keras.Input((7, 6, 3)))
    assert output.shape == (None, 7, 6, 3)
    assert {tuple(weight.shape) for weight in layer.trainable_weights} == {(3,)}
