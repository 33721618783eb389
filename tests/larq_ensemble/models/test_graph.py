"""Which Keras models can become ensembles, and the layer graphs of foreign models."""

from __future__ import annotations

import numpy as np

from larq_ensemble.keras import keras, lq
from larq_ensemble.models import layer_graph
from larq_ensemble.network.graph import Content, Role

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


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
