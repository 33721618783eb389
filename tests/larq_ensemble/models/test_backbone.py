"""Which Keras models can become ensembles; models inside models."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.models import layer_graph
from larq_ensemble.models.backbone import functional_model
from larq_ensemble.models.classifier import classifier

from ..conftest import randomize

layers = keras.layers
IMAGES = np.random.default_rng(1).normal(size=(5, 8, 8, 2)).astype(np.float32)


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__(name="inner")
        self.last = layers.Dense(3)

    def call(self, inputs):
        return self.last(inputs)


class OwnCall(keras.Model):
    """Functional, but calling it is not calling its layers."""

    def call(self, inputs):
        return 2 * super().call(inputs)


def two_inputs() -> keras.Model:
    a, b = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    return keras.Model([a, b], layers.Dense(3, name="logits")(a + b))


def two_outputs() -> keras.Model:
    inputs = keras.Input((4,), name="image")
    return keras.Model(inputs, [layers.Dense(3, name=name)(inputs) for name in ("main", "side")])


def around(inner: keras.Model) -> keras.Model:
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(3)(inner(inputs)), name="outer")


def own_call() -> keras.Model:
    inputs = keras.Input((4,))
    return OwnCall(inputs, layers.Dense(3)(inputs))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            Subclassed,
            "is not a functional Keras model but of the class Subclassed: its layer graph",
        ),
        (own_call, "is not a functional Keras model but of the class OwnCall"),
        (lambda: keras.Sequential([layers.Dense(3)]), "not a functional .* Sequential"),
        (
            lambda: around(Subclassed()),
            "'outer' contains the model 'inner' .* class Subclassed: build",
        ),
        (two_inputs, r"has 2 inputs \('left', 'right'\) and 1 outputs \('logits'\): .*one of each"),
        (two_outputs, r"has 1 inputs \('image'\) and 2 outputs \('main', 'side'\)"),
        (lambda: "model.keras", r"`backbone` must be a tf\.keras \(Keras 2\) model, got str"),
    ],
)
def test_models_that_cannot_be_ensembles_are_refused(build, message: str) -> None:
    model = build()
    for function in (classifier, layer_graph):
        with pytest.raises(EnsembleError, match=message):
            function(model)


def conv(name: str, **options) -> keras.layers.Layer:
    return lq.layers.QuantConv2D(2, 3, padding="same", use_bias=False, name=name, **options)


def features(name: str, *inside) -> keras.Model:
    """A convolution, a batch norm and what is inside."""
    image = keras.Input((8, 8, 2))
    x = layers.BatchNormalization(name="norm")(conv("conv")(image))
    for layer in inside:
        x = layer(x)
    return keras.Model(image, x, name=name)


def network(*inside, **options) -> keras.Model:
    image = keras.Input((8, 8, 2), name="image")
    x = layers.Conv2D(2, 3, padding="same", name="stem")(image)
    for layer in inside:
        x = layer(x, **options)
    x = layers.Flatten(name="flat")(x)
    return keras.Model(image, layers.Dense(3, name="head")(x))


def twice() -> keras.Model:
    shared = features("shared")
    return network(shared, layers.ReLU(), shared)


def shared_with_the_outside() -> keras.Model:
    again = layers.PReLU(shared_axes=[1, 2], name="again")
    return network(features("inside", again), again)


def sequential() -> keras.Model:
    block = keras.Sequential([conv("conv"), layers.BatchNormalization(name="norm")], name="block")
    return keras.Sequential(
        [
            keras.Input((8, 8, 2), name="image"),
            block,
            layers.Flatten(name="flat"),
            layers.Dense(3, name="head"),
        ]
    )


def frozen() -> keras.Model:
    inner = features("inner")
    inner.trainable = False
    return network(inner)


def of_integers() -> keras.Model:
    """The model inside rounds what it gets, because its input has whole numbers."""
    image = keras.Input((8, 8, 2), dtype="int32")
    inner = keras.Model(image, layers.Lambda(lambda x: tf.cast(x, "float32"))(image), name="inner")
    return network(inner)


def dictionaries() -> keras.Model:
    left, right = keras.Input((8, 8, 2), name="left"), keras.Input((8, 8, 2), name="right")
    outputs = {"sum": left + 2 * right, "scaled": layers.Rescaling(3.0, name="scaled")(left)}
    inner = keras.Model({"right": right, "left": left}, outputs, name="inner")
    image = keras.Input((8, 8, 2), name="image")
    x = conv("conv")(image)
    found = inner({"left": image, "right": x})
    x = layers.Flatten(name="flat")(found["sum"] - found["scaled"])
    return keras.Model(image, layers.Dense(3, name="head")(x))


IN, OUT = ["image", "stem"], ["flat", "head"]
NESTED = {
    "features": (
        lambda: network(features("features")),
        [*IN, "features_conv", "features_norm", *OUT],
    ),
    "in another": (
        lambda: network(features("a", features("b"))),
        [*IN, "a_conv", "a_norm", "a_b_conv", "a_b_norm", *OUT],
    ),
    "called twice": (twice, [*IN, "shared_conv", "shared_norm", None, *OUT]),
    "a layer outside too": (
        shared_with_the_outside,
        [*IN, "inside_conv", "inside_norm", "again", *OUT],
    ),
    "taken names": (
        lambda: network(features("a"), conv("a_conv")),
        [*IN, "a_conv_1", "a_norm", "a_conv", *OUT],
    ),
    "sequential": (sequential, ["image", "block_conv", "block_norm", *OUT]),
    "cloned": (
        lambda: keras.models.clone_model(network(features("features"))),
        [*IN, "features_conv", "features_norm", *OUT],
    ),
    "frozen": (frozen, [*IN, "inner_conv", "inner_norm", *OUT]),
    "whole numbers": (of_integers, [*IN, None, None, *OUT]),
    "dictionaries": (dictionaries, None),
}


@pytest.mark.parametrize(("build", "names"), NESTED.values(), ids=NESTED)
def test_models_inside_are_flattened(build, names) -> None:
    model = randomize(build())
    flat = functional_model(model)
    assert not any(isinstance(layer, keras.Model) for layer in flat.layers)
    if names is not None:
        found = [layer.name for layer in flat.layers]
        assert len(found) == len(names)
        assert all(name in (None, other) for name, other in zip(names, found))
    for training in (False, True):
        np.testing.assert_allclose(
            flat(IMAGES, training=training), model(IMAGES, training=training), rtol=1e-5
        )
    assert len(flat.trainable_weights) == len(model.trainable_weights)
    assert len(layer_graph(model).layers) == len(flat.layers)


@pytest.mark.parametrize("training", [False, True])
def test_a_training_argument_reaches_the_layers_inside(training: bool) -> None:
    """As in Keras's guide to transfer learning: `features(x, training=False)`."""
    inner = features("inner", features("innermost"), layers.Dropout(0.5, name="dropout"))
    model = randomize(network(inner, training=training))
    flat = functional_model(model)
    for name in ("inner_norm", "inner_innermost_norm", "inner_dropout"):
        (node,) = flat.get_layer(name).inbound_nodes
        assert node.call_kwargs["training"] is training
    for argument in (False, True):
        keras.utils.set_random_seed(0)
        expected = model(IMAGES, training=argument)
        keras.utils.set_random_seed(0)
        np.testing.assert_allclose(flat(IMAGES, training=argument), expected, rtol=1e-5)


def test_a_model_without_models_inside_keeps_its_layers() -> None:
    model = network(conv("conv"))
    assert functional_model(model) is model
