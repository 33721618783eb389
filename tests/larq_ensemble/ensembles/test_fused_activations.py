"""Fused activations against Larq's and Keras's own, in values and gradients."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from larq_ensemble.ensembles import fused_activations as fused
from larq_ensemble.ensembles import fused_network
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.layers import PReLU
from larq_ensemble.models.keras_layers import PRELUS

from ..conftest import CLASSES, images, labels, tiny_backbone

#: Zeros, edges of the estimators, and either side of them.
EDGES = [0.0, -0.0, 1.0, -1.0, np.nextafter(1, 2), -np.nextafter(1, 2), 0.5, -0.5, 3.0, -3.0]


def edges(*shape: int) -> np.ndarray:
    draw = np.random.default_rng(1)
    values = draw.choice([*EDGES, *draw.normal(size=30)], shape)
    return values.astype(np.float32)


def value_and_gradients(function, x, upstream, variables=()):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    gradients = tape.gradient(y, [x, *variables], tf.cast(upstream, y.dtype))
    return [tensor.numpy() for tensor in (y, *gradients)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("sign", "quantizer"),
    [
        (fused.ste_sign, lq.quantizers.SteSign()),
        (fused.approx_sign, lq.quantizers.ApproxSign()),
    ],
)
def test_signs(sign, quantizer, dtype) -> None:
    x = edges(4, 6, 5, 3)
    # Powers of two, which bfloat16 holds.
    upstream = 2.0 ** np.random.default_rng(2).integers(-3, 4, x.shape).astype(np.float32)
    expected = value_and_gradients(quantizer, x, upstream)
    actual = value_and_gradients(lambda x: sign(x, tf.as_dtype(dtype)), x, upstream)
    assert actual[0].dtype == tf.as_dtype(dtype).as_numpy_dtype
    for value, wanted in zip(actual, expected, strict=True):
        np.testing.assert_allclose(value.astype(np.float32), wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shared_axes", [[1, 2, 3], [1, 2], None])
@pytest.mark.parametrize("rule", ["zero", "slope"])
def test_prelu(rule, shared_axes) -> None:
    """At 0, where sums of signs often are, Keras lets no gradient through, PyTorch the slope."""
    x = edges(4, 6, 5, 3)
    upstream = np.random.default_rng(3).normal(size=x.shape).astype(np.float32)
    layer = PRELUS[rule](
        alpha_initializer=keras.initializers.RandomNormal(seed=1), shared_axes=shared_axes
    )
    layer.build(x.shape)
    plain = functools.partial(layer, training=True) if rule == "slope" else layer
    expected = value_and_gradients(plain, x, upstream, [layer.alpha])
    prelu = fused.fused_prelu(layer)
    actual = value_and_gradients(
        lambda x: prelu(x, tf.convert_to_tensor(layer.alpha), tf.ones(())),
        x,
        upstream,
        [layer.alpha],
    )
    assert (x == 0).any()
    slopes = np.broadcast_to(layer.alpha.numpy(), x.shape) if rule == "slope" else np.zeros(x.shape)
    np.testing.assert_allclose(expected[1][x == 0], (upstream * slopes)[x == 0])
    for value, wanted in zip(actual, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fusing", [False, True])
def test_prelu_gradients_by_hand(fusing: bool) -> None:
    """d/dx = 1 above 0 and the slope, 0.25, from 0 down; d/dslope = min(x, 0)."""
    layer = PReLU(alpha_initializer=keras.initializers.Constant(0.25), shared_axes=[1])
    layer.build((None, 4))
    prelu = fused.fused_prelu(layer)
    value, of_x, of_slope = value_and_gradients(
        (lambda x: prelu(x, tf.convert_to_tensor(layer.alpha), tf.ones(())))
        if fusing
        else (lambda x: layer(x, training=True)),
        np.array([[-2.0, 0.0, -0.0, 3.0]], np.float32),
        np.array([[10.0, 20.0, 40.0, 80.0]], np.float32),
        [layer.alpha],
    )
    assert value.tolist() == [[-0.5, 0, 0, 3]]
    assert of_x.tolist() == [[2.5, 5, 10, 80]]
    assert of_slope.tolist() == [-20]


@pytest.mark.parametrize("rule", ["zero", "slope"])
def test_scales_of_filters(rule) -> None:
    """Sums of signs times a scale in one pass: as the multiplication before the layer."""
    x = np.random.default_rng(4).integers(-20, 21, (2, 4, 4, 3)) * 2.0
    scale = tf.constant([0.25, 0.5, 1.5])
    alpha = tf.Variable(np.full([1, 1, 3], 0.3), dtype=tf.float32)
    upstream = np.random.default_rng(5).normal(size=x.shape).astype(np.float32)
    function = PRELUS[rule](shared_axes=[1, 2])
    training = {"training": True} if rule == "slope" else {}
    function.build(x.shape)
    function.set_weights([alpha.numpy()])
    expected = value_and_gradients(
        lambda x: function(x * scale, **training), x.astype(np.float32), upstream, [function.alpha]
    )
    for dtype, tolerance in ((np.float32, 1e-6), (tf.bfloat16.as_numpy_dtype, 1 / 256)):
        signs = x.astype(dtype)
        y, of_x, of_alpha = value_and_gradients(
            lambda x: fused.fused_prelu(function)(x, tf.convert_to_tensor(alpha), scale),
            signs,
            upstream,
            [alpha],
        )
        assert (y.dtype, of_x.dtype) == (np.float32, dtype)
        np.testing.assert_allclose(y, expected[0], rtol=1e-6)
        np.testing.assert_allclose(of_x.astype(np.float32), expected[1], rtol=tolerance)
        np.testing.assert_allclose(of_alpha, expected[2], rtol=1e-5)
        multiplied, of_x = value_and_gradients(lambda x: fused.scaled(x, scale), signs, upstream)
        np.testing.assert_allclose(multiplied, x * scale, rtol=1e-6)
        np.testing.assert_allclose(of_x.astype(np.float32), upstream * scale, rtol=tolerance)


def test_signs_that_are_known() -> None:
    conv = lq.layers.QuantConv2D
    assert fused.fused_sign(conv(1, 3, input_quantizer="ste_sign")) is fused.ste_sign
    assert fused.fused_sign(conv(1, 3, input_quantizer="approx_sign")) is fused.approx_sign
    for other in (None, "swish_sign", lq.quantizers.SteSign(clip_value=2)):
        assert fused.fused_sign(conv(1, 3, input_quantizer=other)) is None
    assert fused.fused_sign(keras.layers.Conv2D(1, 3)) is None


@pytest.mark.parametrize("kind", [keras.layers.PReLU, PReLU])
def test_prelus_that_are_known(kind) -> None:
    """Fused, the loss of a regularizer of the outputs would be lost."""
    assert fused.fused_prelu(kind()) is not None
    assert fused.fused_prelu(kind(activity_regularizer="l2")) is None
    assert fused.fused_prelu(kind(dtype="float64")) is None


def losses(model: keras.Model, epochs: int) -> list[float]:
    model.compile(
        keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    history = model.fit(images(), labels(), batch_size=6, epochs=epochs, shuffle=False, verbose=0)
    return history.history["loss"]


def test_a_network_learns_as_before() -> None:
    """The first losses and the weights after them: rounding may flip a sign later."""
    plain, other = (tiny_backbone(prelu_gradient="zero") for _ in range(2))
    expected, actual = losses(plain, 2), losses(fused_network(other), 2)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)
    for weight, wanted in zip(other.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(weight, wanted, rtol=1e-3, atol=1e-4)
    assert plain(images()).shape == (12, CLASSES)
    assert losses(fused_network(other), 4)[-1] < 0.9 * expected[0]


def test_a_layer_that_reads_its_input_too_keeps_its_quantizer() -> None:
    class Plain(lq.layers.QuantConv2D):
        """Only another name."""

    class Shortcut(lq.layers.QuantConv2D):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return inputs + super().call(inputs)

    layers = [kind(4, 1, input_quantizer="ste_sign") for kind in (Plain, Shortcut)]
    assert [fused.fused_sign(layer) is not None for layer in layers] == [True, False]
