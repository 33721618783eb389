"""Which Keras models can become ensembles, and the layer graphs of foreign models."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.models import layer_graph
from larq_ensemble.models.functional import classifier, with_head_bias_apart
from larq_ensemble.network.graph import Content, Kind, Role

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def dense_model(*ends: keras.layers.Layer) -> keras.Model:
    inputs = keras.Input((4,))
    x = keras.layers.Dense(6, activation="relu", name="hidden")(inputs)
    for layer in ends:
        x = layer(x)
    return keras.Model(inputs, x)


def assert_logits_of(model: keras.Model) -> None:
    """Its classifier's outputs are logits of the probabilities that the model predicts."""
    logits = classifier(model)(X).numpy()
    assert not np.allclose(logits.sum(axis=1), 1)
    exponentials = np.exp(logits)
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model(X).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "ends",
    [
        lambda: [keras.layers.Dense(3, activation="softmax")],
        lambda: [keras.layers.Dense(3), keras.layers.Softmax()],
        lambda: [keras.layers.Dense(3), keras.layers.Activation("softmax")],
        lambda: [
            lq.layers.QuantDense(3, kernel_quantizer="ste_sign"),
            keras.layers.Activation("softmax"),
            keras.layers.Activation("linear"),
        ],
        lambda: [keras.layers.Dense(3), tf.nn.softmax],
    ],
)
def test_a_final_softmax_is_removed(ends) -> None:
    model = dense_model(*ends())
    before = [weight.copy() for weight in model.get_weights()]
    assert_logits_of(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert isinstance(classifier(model).layers[-1], keras.layers.Dense)


@pytest.mark.parametrize(
    "ends",
    [
        lambda: [keras.layers.Dense(1, activation="sigmoid", bias_initializer="ones")],
        lambda: [keras.layers.Dense(1, use_bias=False), keras.layers.Activation("sigmoid")],
    ],
)
def test_one_sigmoid_becomes_two_logits(ends) -> None:
    model = dense_model(*ends())
    logits = classifier(model)(X).numpy()
    probability = model(X).numpy()[:, 0]
    assert logits.shape == (len(X), 2)
    assert np.ptp(probability) > 0.01
    np.testing.assert_array_equal(logits[:, 0], 0)
    np.testing.assert_allclose(logits[:, 1], np.log(probability / (1 - probability)), rtol=1e-4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: dense_model(keras.layers.Dense(1)), "has one unit and no sigmoid: .*two units"),
        (lambda: dense_model(keras.layers.Dense(1, "softmax")), "has one unit and no sigmoid"),
        (
            lambda: dense_model(
                lq.layers.QuantDense(1, activation="sigmoid", kernel_quantizer="ste_sign")
            ),
            "one unit and a binarized kernel",
        ),
        (lambda: dense_model(keras.layers.Dense(3, "sigmoid")), "has the activation 'sigmoid'"),
        (
            lambda: dense_model(keras.layers.Dense(3), keras.layers.Activation("sigmoid")),
            "has the activation 'sigmoid'",
        ),
        (
            lambda: dense_model(keras.layers.Reshape((2, 3)), keras.layers.Dense(3)),
            r"outputs of the shape \(None, 2, 3\), but a classifier",
        ),
    ],
)
def test_outputs_that_are_no_classes(build, message: str) -> None:
    with pytest.raises(EnsembleError, match=message):
        classifier(build())


def test_a_model_without_softmax_is_kept() -> None:
    model = dense_model(keras.layers.Dense(3))
    np.testing.assert_array_equal(classifier(model)(X), model(X))


def test_a_built_sequential_model() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    assert_logits_of(model)
    (layer,) = [layer for layer in layer_graph(model) if layer.stored]
    assert layer.kind is Kind.DENSE


def test_layers_that_another_model_called_first() -> None:
    """The classifier ends at this model's calls of the layers, not at the other's."""
    inputs = keras.Input((4,))
    last = keras.layers.Dense(3, activation="softmax")
    softmax = keras.layers.Softmax()
    last(inputs)
    softmax(keras.layers.Dense(3, name="elsewhere")(inputs))
    assert_logits_of(keras.Model(inputs, last(keras.layers.Dense(4, activation="relu")(inputs))))
    assert_logits_of(keras.Model(inputs, softmax(keras.layers.Dense(3)(inputs))))


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.last = keras.layers.Dense(3)

    def call(self, inputs):
        return self.last(inputs)


def two_inputs() -> keras.Model:
    a, b = keras.Input((4,)), keras.Input((4,))
    return keras.Model([a, b], keras.layers.Dense(3)(a + b))


def two_outputs() -> keras.Model:
    inputs = keras.Input((4,))
    return keras.Model(inputs, [keras.layers.Dense(3)(inputs), keras.layers.Dense(3)(inputs)])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Subclassed, "is not a functional Keras model but a Subclassed: its layer graph"),
        (lambda: keras.Sequential([keras.layers.Dense(3)]), "not a functional .* Sequential"),
        (lambda: dense_model(dense_model(keras.layers.Dense(4))), "inner model"),
        (two_inputs, "has 2 inputs and 1 outputs"),
        (two_outputs, "has 1 inputs and 2 outputs"),
        (lambda: "model.keras", r"`backbone` must be a tf\.keras \(Keras 2\) model, got str"),
    ],
)
def test_models_that_cannot_be_ensembles_are_refused(build, message: str) -> None:
    model = build() if not message.startswith("inner") else nested()
    for function in (classifier, layer_graph):
        with pytest.raises(EnsembleError, match=message):
            function(model)


def nested() -> keras.Model:
    inner_input = keras.Input((6,))
    inner = keras.Model(inner_input, keras.layers.Dense(5)(inner_input), name="inner")
    return dense_model(inner, keras.layers.Dense(3))


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        (lambda: [keras.layers.ReLU(name="end")], "No linear layer .*'end' is a ReLU"),
        (
            lambda: [keras.layers.Dense(3, activation="sigmoid", name="end")],
            "'end' has the activation 'sigmoid'",
        ),
        (lambda: [keras.layers.Dense(3), keras.layers.Dropout(0.5)], "is a Dropout"),
    ],
)
def test_models_that_do_not_end_in_logits_are_refused(ends, message: str) -> None:
    with pytest.raises(EnsembleError, match=message):
        classifier(dense_model(*ends()))


def test_stored_values_of_foreign_layers() -> None:
    """By hand, of layers that our architectures don't have."""
    inputs = keras.Input((8, 8, 3))
    x = lq.layers.QuantConv2D(4, 3, kernel_quantizer="ste_sign", name="plain")(inputs)
    x = lq.layers.QuantDepthwiseConv2D(
        3, depthwise_quantizer="magnitude_aware_sign", use_bias=False, name="depthwise"
    )(x)
    x = keras.layers.BatchNormalization(scale=False, name="norm")(x)
    x = keras.layers.PReLU(shared_axes=[1, 2], name="slopes")(x)
    x = keras.layers.Flatten(name="flat")(x)
    x = keras.layers.Dense(5, use_bias=False, name="last")(x)
    graph = layer_graph(keras.Model(inputs, x))
    stored = {
        layer.name: {(item.content, item.count, item.bits) for item in layer.stored}
        for layer in graph
        if layer.stored
    }
    assert stored == {
        "plain": {(Content.BINARY_FILTER, 9 * 3 * 4, 1), (Content.BIAS, 4, 32)},
        "depthwise": {(Content.BINARY_FILTER, 9 * 4, 1), (Content.FILTER_SCALE, 1, 32)},
        "norm": {(Content.NORM, 8, 32)},
        "slopes": {(Content.ACTIVATION, 4, 32)},
        "last": {(Content.LINEAR, 4 * 4 * 4 * 5, 32)},
    }


def test_the_order_of_layers_where_one_depends_on_itself() -> None:
    """conv -> norm -> the same conv again: no order of layers has each after all its inputs."""
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 1, name="stem")(inputs)
    twice = keras.layers.Conv2D(4, 3, padding="same", name="twice")
    x = keras.layers.BatchNormalization(name="norm")(twice(x))
    x = keras.layers.Flatten(name="flat")(twice(x))
    graph = layer_graph(keras.Model(inputs, keras.layers.Dense(3, name="last")(x)))
    assert [layer.name for layer in graph][1:] == ["stem", "twice", "norm", "flat", "last"]
    assert set(graph["twice"].inputs) == {"stem", "norm"}
    assert graph.roles["stem"] is Role.STEM
    assert graph.roles["twice"] is Role.CONV


class TwoBranches(keras.layers.Layer):
    """A custom layer without weights whose output is a dictionary."""

    def call(self, inputs):
        return {"left": inputs, "right": -inputs}


def test_a_layer_with_a_dictionary_of_outputs() -> None:
    inputs = keras.Input((4,))
    branches = TwoBranches(name="branches")(inputs)
    x = keras.layers.Concatenate(name="both")([branches["left"], branches["right"]])
    graph = layer_graph(keras.Model(inputs, keras.layers.Dense(3, name="last")(x)))
    assert graph["both"].inputs == ("branches",)
    assert graph["last"].macs == 8 * 3


@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_float16"])
def test_a_bias_apart_gives_the_same_logits(dtype: str) -> None:
    """In the precision of the linear layer."""
    x = keras.Input((4,))
    head = keras.layers.Dense(3, dtype=dtype, bias_initializer="random_normal", name="head")
    model = keras.Model(x, head(x))
    apart = with_head_bias_apart(model)
    assert [layer.name for layer in apart.layers[1:]] == ["head", "head_bias"]
    values = np.random.default_rng(0).normal(size=(5, 4))
    expected, logits = model(values), apart(values)
    assert logits.dtype == expected.dtype
    np.testing.assert_array_equal(logits, expected)
    assert layer_graph(apart)["head_bias"].inputs == ("head",)
    assert with_head_bias_apart(without := keras.Model(x, apart.layers[1](x))) is without
