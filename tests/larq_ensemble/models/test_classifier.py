"""From a network to its logits, however it makes its probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.models import layer_graph
from larq_ensemble.models.classifier import classifier, with_head_bias_apart
from larq_ensemble.network.graph import Role

layers = keras.layers
X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
IMAGES = np.random.default_rng(1).normal(size=(5, 4, 4, 2)).astype(np.float32)


def dense_model(*ends) -> keras.Model:
    inputs = keras.Input((4,))
    x = layers.Dense(6, activation="relu", name="hidden")(inputs)
    for layer in ends:
        x = layer(x)
    return keras.Model(inputs, x)


def conv_model(*ends) -> keras.Model:
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(6, 3, activation="relu", name="hidden")(inputs)
    for layer in ends:
        x = layer(x)
    return keras.Model(inputs, x)


def softmax(x):
    return tf.nn.softmax(x)


def conv(units: int = 3, **options) -> keras.layers.Layer:
    return layers.Conv2D(units, 1, bias_initializer="random_normal", name="head", **options)


def norm() -> keras.layers.Layer:
    return layers.BatchNormalization(beta_initializer="random_normal", name="norm")


def dense(units: int = 3, **options) -> keras.layers.Layer:
    return layers.Dense(units, bias_initializer="random_normal", name="head", **options)


ENDS = {
    "softmax as activation": (dense_model, lambda: [dense(activation="softmax")]),
    "tf.nn.softmax as activation": (dense_model, lambda: [dense(activation=tf.nn.softmax)]),
    "own function as activation": (dense_model, lambda: [dense(activation=softmax)]),
    "softmax of a convolution": (
        conv_model,
        lambda: [layers.GlobalAveragePooling2D(keepdims=True), conv(activation="softmax")],
    ),
    "Softmax": (dense_model, lambda: [dense(), layers.Softmax()]),
    "Activation": (dense_model, lambda: [dense(), layers.Activation("softmax")]),
    "Activation(tf.nn.softmax)": (dense_model, lambda: [dense(), layers.Activation(softmax)]),
    "Lambda": (dense_model, lambda: [dense(), layers.Lambda(lambda x: tf.nn.softmax(x, axis=-1))]),
    "operator": (dense_model, lambda: [dense(), tf.nn.softmax]),
    "in float32": (
        dense_model,
        lambda: [
            lq.layers.QuantDense(3, kernel_quantizer="ste_sign", name="head"),
            layers.Softmax(),
            layers.Activation("linear", dtype="float32"),
        ],
    ),
    "batch norm": (dense_model, lambda: [dense(), norm(), layers.Softmax()]),
    "global pooling": (
        conv_model,
        lambda: [conv(), layers.GlobalAveragePooling2D(), layers.Softmax()],
    ),
    "flatten": (
        conv_model,
        lambda: [
            layers.GlobalAveragePooling2D(keepdims=True),
            conv(),
            layers.Flatten(),
            layers.Softmax(),
        ],
    ),
    "softmax, flatten": (
        conv_model,
        lambda: [
            layers.GlobalAveragePooling2D(keepdims=True),
            dense(),
            layers.Softmax(),
            layers.Reshape((3,)),
        ],
    ),
    "no flatten": (
        conv_model,
        lambda: [layers.GlobalAveragePooling2D(keepdims=True), dense(), layers.Softmax()],
    ),
}


@pytest.mark.parametrize(("model", "ends"), ENDS.values(), ids=ENDS)
def test_the_softmax_of_the_logits_are_the_probabilities(model, ends) -> None:
    model = model(*ends())
    images = X if model.input_shape == (None, 4) else IMAGES
    before = [weight.copy() for weight in model.get_weights()]
    network = classifier(model)
    logits = network(images).numpy()
    assert network.output_shape == (None, 3)
    assert not np.allclose(logits.sum(axis=1), 1)
    exponentials = np.exp(logits)
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model(images).numpy().reshape(5, 3), expected, rtol=1e-5)
    for old, weight in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, weight)
    assert layer_graph(network).roles["head"] is Role.HEAD
    # The backbone is as it was: no layer of it was called once more.
    assert all(len(layer.inbound_nodes) == 1 for layer in model.layers)


def test_a_softmax_is_taken_off_once() -> None:
    """What a second softmax gets are the logits, as the network was trained."""
    model = dense_model(dense(activation="softmax"), layers.Softmax())
    np.testing.assert_allclose(tf.nn.softmax(classifier(model)(X)), model(X), rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "ends"),
    [
        (dense_model, lambda: [dense(1, activation="sigmoid")]),
        (dense_model, lambda: [dense(1), layers.Activation(tf.nn.sigmoid)]),
        (dense_model, lambda: [dense(1), norm(), layers.Lambda(lambda x: tf.sigmoid(x))]),
        (
            dense_model,
            lambda: [
                lq.layers.QuantDense(1, kernel_quantizer="ste_sign"),
                norm(),
                layers.Activation("sigmoid"),
            ],
        ),
        (
            conv_model,
            lambda: [conv(1), layers.GlobalAveragePooling2D(), layers.Activation("sigmoid")],
        ),
    ],
)
def test_one_sigmoid_becomes_two_logits(model, ends) -> None:
    model = model(*ends())
    images = X if model.input_shape == (None, 4) else IMAGES
    logits = classifier(model)(images).numpy()
    probability = model(images).numpy()[:, 0]
    assert logits.shape == (5, 2)
    assert np.ptp(probability) > 0.01
    np.testing.assert_array_equal(logits[:, 0], 0)
    np.testing.assert_allclose(logits[:, 1], np.log(probability / (1 - probability)), rtol=1e-3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: dense_model(dense(1)), "has one output, of 'head', and no sigmoid: .*two units"),
        (lambda: dense_model(dense(1, activation="softmax")), "one output.* no sigmoid"),
        (lambda: dense_model(dense(activation="sigmoid")), "'head' has the activation 'sigmoid'"),
        (
            lambda: dense_model(dense(), layers.Activation("sigmoid")),
            "'head' has the activation 'sigmoid'",
        ),
        (lambda: dense_model(dense(activation="tanh")), "has the activation 'tanh'"),
        (lambda: dense_model(layers.ReLU(name="end")), "'end' .ReLU., whose outputs are never neg"),
        (
            lambda: dense_model(layers.Reshape((2, 3)), layers.Dense(3)),
            r"outputs of the shape \(None, 2, 3\), but a classifier",
        ),
        (lambda: conv_model(conv(activation="softmax")), r"outputs of the shape \(None, 2, 2, 3\)"),
        (
            lambda: conv_model(conv(activation="softmax"), layers.GlobalAveragePooling2D()),
            "are probabilities, but its last layer .*GlobalAveragePooling2D. is no softmax",
        ),
    ],
)
def test_outputs_that_are_no_logits(build, message: str) -> None:
    with pytest.raises(EnsembleError, match=message):
        classifier(build())


@pytest.mark.parametrize("ends", [lambda: [dense()], lambda: [dense(), layers.Dropout(0.5)]])
def test_a_model_without_softmax_is_kept(ends) -> None:
    model = dense_model(*ends())
    network = classifier(model)
    assert network.layers == model.layers
    np.testing.assert_array_equal(network(X), model(X))


def test_layers_that_another_model_called_first() -> None:
    """The classifier ends at this model's calls of the layers, not at the other's."""
    inputs = keras.Input((4,))
    last, end = layers.Dense(3, activation="softmax"), layers.Softmax()
    last(inputs)
    end(layers.Dense(3, name="elsewhere")(inputs))
    for outputs in (last(layers.Dense(4, "relu")(inputs)), end(layers.Dense(3)(inputs))):
        model = keras.Model(inputs, outputs)
        np.testing.assert_allclose(tf.nn.softmax(classifier(model)(X)), model(X), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_float16"])
def test_a_bias_apart_gives_the_same_logits(dtype: str) -> None:
    """In the precision of the linear layer."""
    x = keras.Input((4,))
    model = keras.Model(x, dense(dtype=dtype)(x))
    apart = with_head_bias_apart(model)
    assert [layer.name for layer in apart.layers[1:]] == ["head", "head_bias"]
    values = np.random.default_rng(0).normal(size=(5, 4))
    expected, logits = model(values), apart(values)
    assert logits.dtype == expected.dtype
    np.testing.assert_array_equal(logits, expected)
    assert layer_graph(apart)["head_bias"].inputs == ("head",)
    assert with_head_bias_apart(without := keras.Model(x, apart.layers[1](x))) is without


def test_the_bias_of_a_head_before_other_layers() -> None:
    """Network in Network: a convolution with a ReLU, then global pooling."""
    ends = [conv(activation="relu"), layers.GlobalAveragePooling2D(name="pool"), norm()]
    model = conv_model(*ends)
    apart = with_head_bias_apart(model)
    names = ["hidden", "head", "head_bias", "head_activation", "pool", "norm"]
    assert [layer.name for layer in apart.layers[1:]] == names
    np.testing.assert_allclose(apart(IMAGES), model(IMAGES), rtol=1e-6)
    # The graph that `storage` counts has the same parts.
    counted, built = layer_graph(model).with_head_bias_apart(), layer_graph(apart)
    assert [(node.name, node.stored) for node in counted] == [
        (node.name, node.stored) for node in built if node.name != "head_activation"
    ]
