"""Adam as one operator against Keras's own."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.training.optimizer import OneOperatorAdam

GRADIENTS = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)


def after_steps(optimizer: keras.optimizers.Optimizer, *, compiled: bool) -> list[np.ndarray]:
    """A weight with a constraint, and one of embeddings, whose gradients are sparse."""
    dense = tf.Variable(np.full((4, 3), 0.5, np.float32), constraint=lq.constraints.WeightClip(1))
    table = tf.Variable(np.ones((4, 3), np.float32))

    def step(gradient: tf.Tensor) -> None:
        rows = tf.IndexedSlices(gradient[:2], tf.constant([2, 0]), tf.constant([4, 3]))
        optimizer.apply_gradients([(gradient, dense), (rows, table)])

    optimizer.build([dense, table])
    run = tf.function(step) if compiled else step
    for gradient in GRADIENTS:
        run(tf.constant(gradient))
    return [dense.numpy(), table.numpy(), *(v.numpy() for v in optimizer.variables)]


@pytest.mark.parametrize("compiled", [False, True])
def test_updates_are_those_of_keras(compiled) -> None:
    """Weights, moments and the step count; the rate falls in between."""
    results = [
        after_steps(
            adam(keras.optimizers.schedules.PolynomialDecay(0.3, 5, 0.01), beta_1=0.8),
            compiled=compiled,
        )
        for adam in (keras.optimizers.Adam, OneOperatorAdam)
    ]
    # TensorFlow takes 1 - beta_2 in float32, where it is off by 5e-5 of itself.
    for expected, actual in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=1e-6)
    assert np.abs(results[1][0]).max() == 1  # the constraint


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-5), ("float16", 1e-2)])
def test_weights_of_other_precisions(dtype: str, tolerance: float) -> None:
    """Of a network of one's own; by the formula, in NumPy."""
    weight, optimizer = tf.Variable(tf.ones((4, 3), dtype)), OneOperatorAdam(0.1)
    expected, m, v = np.ones((4, 3)), 0.0, 0.0
    for t, gradient in enumerate(GRADIENTS, start=1):
        optimizer.apply_gradients([(tf.cast(gradient, dtype), weight)])
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        rate = 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        expected = expected - rate * m / (np.sqrt(v) + 1e-7)
    np.testing.assert_allclose(tf.cast(weight, tf.float64), expected, atol=tolerance)


def test_one_operator_a_weight() -> None:
    """The graph of an update has less than half of the operators that Keras's has."""
    sizes = []
    for optimizer in (keras.optimizers.Adam(), OneOperatorAdam()):
        weights = [tf.Variable(np.ones(3, np.float32)) for _ in range(20)]
        optimizer.build(weights)

        def step(gradient, optimizer=optimizer, weights=weights):
            optimizer.apply_gradients([(gradient, weight) for weight in weights])

        graph = tf.function(step).get_concrete_function(tf.ones(3)).graph
        sizes.append(len(graph.get_operations()))
    operations = [operation.type for operation in graph.get_operations()]
    assert operations.count("ResourceApplyAdam") == 20
    assert sizes[1] < sizes[0] / 2


def test_quantized_weights() -> None:
    """Larq's variables wrap those that are updated."""
    results = []
    for adam in (keras.optimizers.Adam, OneOperatorAdam):
        keras.utils.set_random_seed(1)
        layer = lq.layers.QuantDense(
            2, kernel_quantizer="ste_sign", kernel_constraint="weight_clip"
        )
        layer.build((None, 3))
        optimizer = adam(0.1)
        gradients = [tf.ones_like(weight) for weight in layer.trainable_variables]
        optimizer.apply_gradients(zip(gradients, layer.trainable_variables))
        results.append(layer.get_weights())
    for expected, actual in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
def test_weight_decay_is_for_real_valued_filters_only(compiled) -> None:
    """By hand: with gradients of 0 each of their weights becomes w (1 - 0.1 * 0.5)."""
    binary = lq.layers.QuantConv2D(
        2, 3, input_quantizer="ste_sign", kernel_quantizer="ste_sign", use_bias=False
    )
    network = keras.Sequential(
        [
            keras.layers.Conv2D(4, 3, input_shape=(8, 8, 3), bias_initializer="ones"),
            keras.layers.BatchNormalization(),
            keras.layers.PReLU(shared_axes=[1, 2], alpha_initializer="ones"),
            lq.layers.QuantDepthwiseConv2D(3),
            binary,
            keras.layers.Flatten(),
            keras.layers.Dense(5, bias_initializer="ones"),
        ]
    )
    before = {weight.name: weight.numpy() for weight in network.weights}
    optimizer = OneOperatorAdam(0.1, weight_decay=0.5)
    optimizer.build(network.trainable_variables)

    def step() -> None:
        weights = network.trainable_variables
        optimizer.apply_gradients([(tf.zeros_like(weight), weight) for weight in weights])

    (tf.function(step) if compiled else step)()
    changed = []
    for weight in network.weights:
        if not np.array_equal(weight.numpy(), before[weight.name]):
            changed.append(weight.name)
            np.testing.assert_allclose(weight.numpy(), 0.95 * before[weight.name], rtol=1e-6)
    kernels = [
        name for name in before if "kernel" in name and not name.startswith(f"{binary.name}/")
    ]
    assert changed == kernels
    assert len(kernels) == 3


def test_weight_decay_is_that_of_keras() -> None:
    """`keras.optimizers.AdamW` on a kernel, by the same schedule of the rate."""
    found = []
    for adam in (keras.optimizers.AdamW, OneOperatorAdam):
        kernel = tf.Variable(np.full((4, 3), 0.5, np.float32), name="conv/kernel")
        rate = keras.optimizers.schedules.PolynomialDecay(0.03, 5, 0.01)
        optimizer = adam(rate, weight_decay=0.2)
        for gradient in GRADIENTS:
            optimizer.apply_gradients([(tf.constant(gradient), kernel)])
        found.append(kernel.numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=2e-4, atol=1e-6)
