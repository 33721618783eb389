"""Convolutions in bfloat16 against the same in float32 of what bfloat16 rounds to."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.ensembles import bfloat16, fused_network
from larq_ensemble.ensembles.bfloat16 import convolved, is_for_bfloat16
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, lq, tf

from ..conftest import images, labels, tiny_backbone

SHAPE = (4, 6, 6, 16)


def rounded(values: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.cast(values, tf.bfloat16), tf.float32)


def built(layer: keras.layers.Layer) -> keras.layers.Layer:
    layer(keras.Input(SHAPE[1:]))
    return layer


@pytest.fixture
def x() -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).normal(size=SHAPE), tf.float32)


def test_operands_and_result_are_rounded_and_nothing_else(x, bfloat16) -> None:
    layer = built(keras.layers.Conv2D(8, 3, strides=2, bias_initializer="glorot_normal"))
    kernel = rounded(layer.kernel)
    plain = tf.nn.conv2d(rounded(x), kernel, 2, "VALID")
    actual = convolved(layer, x)
    assert actual.dtype == tf.float32
    # A sum that lies between two numbers of bfloat16 may become either.
    error = np.abs(actual - layer.bias - plain)
    assert (error <= 2**-8 * np.abs(plain) + 1e-5).all()
    assert np.mean(actual == rounded(plain) + layer.bias) > 0.99


@pytest.mark.parametrize("pad_values", [0, 1])
def test_sums_of_signs_are_exact(x, pad_values, bfloat16) -> None:
    """Of up to 256 products, which bfloat16 holds: 144 here."""
    layer = built(
        lq.layers.QuantConv2D(
            8, 3, padding="same", pad_values=pad_values, use_bias=False,
            input_quantizer="ste_sign", kernel_quantizer="ste_sign",
        )
    )  # fmt: skip
    signs = layer.input_quantizer(x)
    np.testing.assert_array_equal(convolved(layer, signs), layer(x))
    np.testing.assert_array_equal(np.abs(layer.get_weights()[0]) <= 1, True)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (keras.layers.Conv2D(4, 3), True),
        (lq.layers.QuantConv2D(4, 3, input_quantizer="ste_sign"), True),
        (keras.layers.Conv2D(4, 3, groups=2), False),
        (keras.layers.Conv2D(4, 3, activation="relu"), False),
        (keras.layers.Conv2D(4, 3, activity_regularizer="l2"), False),
        (keras.layers.Conv2D(4, 3, dtype="mixed_bfloat16"), False),
        (keras.layers.DepthwiseConv2D(3), False),
        (keras.layers.BatchNormalization(), False),
    ],
)
def test_layers_that_compute_in_it(layer, expected) -> None:
    assert is_for_bfloat16(built(layer)) == expected


def test_a_layer_of_images_of_two_sizes() -> None:
    layer = built(keras.layers.Conv2D(4, 3))
    layer(keras.Input((12, 12, SHAPE[-1])))
    assert is_for_bfloat16(layer)


def test_images_are_not_rounded() -> None:
    layer = keras.layers.Conv2D(4, 3)
    layer(keras.Input((8, 8, 3)))
    assert not is_for_bfloat16(layer)


def backbone() -> keras.Model:
    """Convolutions of 16 channels, binary and real-valued, and a cropped shortcut."""
    inputs = keras.Input((9, 9, 1))
    x = keras.layers.Conv2D(16, 3, name="stem")(inputs)
    y = keras.layers.BatchNormalization()(x)
    y = lq.layers.QuantConv2D(
        16, 3, strides=2, padding="same", input_quantizer="ste_sign", kernel_quantizer="ste_sign",
        kernel_constraint="weight_clip", use_bias=False,
    )(y)  # fmt: skip
    y = keras.layers.PReLU(shared_axes=[1, 2])(y)
    shortcut = keras.layers.Cropping2D(((1, 0), (1, 0)))(x)
    shortcut = keras.layers.Conv2D(16, 1, strides=2, padding="same")(shortcut)
    shortcut = keras.layers.ZeroPadding2D(((0, y.shape[1] - shortcut.shape[1]),) * 2)(shortcut)
    y = keras.layers.Add()([y, shortcut])
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(y)))


def gradients(network: keras.Model) -> list[np.ndarray]:
    x = np.random.default_rng(1).normal(size=(8, 9, 9, 1)).astype(np.float32)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        value = loss(np.arange(8), network(x, training=True))
    return [g.numpy() for g in tape.gradient(value, network.trainable_variables)]


def test_gradients_are_nearly_those_of_float32(bfloat16) -> None:
    keras.utils.set_random_seed(0)
    network = backbone()
    exact = gradients(network)
    for fused, error in (
        (fused_network(network), 1e-4),
        (fused_network(network, bfloat16=True), 0.05),
    ):
        for found, expected in zip(gradients(fused), exact, strict=True):
            assert np.linalg.norm(found - expected) <= error * np.linalg.norm(expected) + 1e-6
        for variable in fused.variables:
            assert variable.dtype == "float32"


def test_inference_in_bfloat16_is_nearly_that_of_float32(bfloat16) -> None:
    network = backbone()
    x = np.random.default_rng(1).normal(size=(8, 9, 9, 1)).astype(np.float32)
    exact = network(x, training=False).numpy()
    found = fused_network(network, bfloat16=True)(x, training=False).numpy()
    assert (found != exact).any()
    np.testing.assert_allclose(found, exact, atol=0.02 * np.abs(exact).max())
    np.testing.assert_array_equal(fused_network(network)(x, training=False), exact)


def test_fit_in_bfloat16(bfloat16) -> None:
    network = fused_network(tiny_backbone(), bfloat16=True)
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = network.fit(images(64), labels(64), epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_a_machine_without_bfloat16(monkeypatch) -> None:
    def no_kernel(*_, **__):
        raise tf.errors.UnimplementedError(None, None, "no kernel")

    monkeypatch.setattr(tf.nn, "conv2d", no_kernel)
    bfloat16.warn_where_slow.cache_clear()
    with pytest.raises(EnsembleError, match=r"no kernel\): leave `bfloat16` out"):
        fused_network(tiny_backbone(), bfloat16=True)


@pytest.mark.parametrize(("factor", "warns"), [(25.3, True), (0.6, False)])
def test_a_machine_where_bfloat16_is_slow(factor, warns, monkeypatch, recwarn) -> None:
    monkeypatch.setattr(bfloat16, "slowdown", lambda: factor)
    bfloat16.warn_where_slow.cache_clear()
    for _ in range(2):  # it is told once
        fused_network(tiny_backbone(), bfloat16=True)
    told = [str(each.message) for each in recwarn if "bfloat16" in str(each.message)]
    assert [message.startswith("This machine takes 25 times as long") for message in told] == (
        [True] if warns else []
    )


def test_what_is_timed_includes_gradients(monkeypatch) -> None:
    """Without AVX512_BF16 only gradients are slow: 1.0 forward, 30 backward (Zen 3, measured)."""
    clock = iter(range(1000))
    taken = []

    def gradient(tape, y, sources):
        taken.append(y.dtype)
        if y.dtype == tf.bfloat16:
            for _ in range(9):
                next(clock)
        return sources

    monkeypatch.setattr(tf.GradientTape, "gradient", gradient)
    monkeypatch.setattr(bfloat16.time, "perf_counter", lambda: next(clock))
    assert bfloat16.slowdown() == 10
    assert set(taken) == {tf.float32, tf.bfloat16}
