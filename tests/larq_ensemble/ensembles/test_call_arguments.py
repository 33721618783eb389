"""Arguments of layers' calls: each execution of a network gives them, as Keras does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from larq_ensemble.convert.conversion import convert_ensemble
from larq_ensemble.ensembles import build_ensemble, fused_network
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.layers import PReLU
from larq_ensemble.models.copying import copied_network
from larq_ensemble.runtime import EnsembleInterpreter

from ..conftest import CLASSES, SHAPE, images, labels, randomize

MEMBERS = 2


@keras.utils.register_keras_serializable("tests")
class Gated(keras.layers.Layer):
    """Three tensors, one of them by name alone, and a number."""

    def build(self, shape) -> None:
        self.scale = self.add_weight(name="scale", shape=shape[-1:], initializer="ones")

    def call(self, x, other, factor=1.0, *, gate):
        return self.scale * x + factor * other * tf.nn.sigmoid(gate)


@keras.utils.register_keras_serializable("tests")
class TrainsByDefault(keras.layers.Layer):
    """Takes `training` among others, and says in its signature that it trains."""

    def call(self, x, training=True, **kwargs):
        return 2 * x if training else x


def network() -> keras.Model:
    """A trunk and layers behind it with all kinds of calls."""
    norm, prelu = keras.layers.BatchNormalization, PReLU(shared_axes=[1, 2], name="prelu")
    image = keras.Input(SHAPE, name="image")
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(image)
    x = TrainsByDefault(name="in_trunk")(x)
    x = stem = norm(name="plain")(x)
    x = norm(name="by_name")(x, training=False)
    x = norm(name="by_position")(x, False)
    x = norm(name="none")(x, training=None)
    x = norm(name="again", trainable=False)(x)
    x = prelu(x, training=False)
    x = keras.layers.Dropout(0.5, name="dropout")(x, training=False)
    x = lq.layers.QuantConv2D(
        4, 3, padding="same", input_quantizer="ste_sign", kernel_quantizer="ste_sign", name="conv"
    )(x)
    x = TrainsByDefault(name="by_default")(x)
    x = Gated(name="gated")(x, stem, 0.5, gate=stem)
    x = keras.layers.Lambda(lambda x, training=None: 3 * x if training else x)(x)
    x = keras.layers.Add(name="add")([x, tf.reduce_mean(stem, axis=[1, 2], keepdims=True)])
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return randomize(keras.Model(image, keras.layers.Dense(CLASSES, name="linear")(x)))


def step(model: keras.Model, *targets: Any) -> dict[str, float]:
    model.compile(keras.optimizers.SGD(0.1), *targets, run_eagerly=True)
    return model.train_on_batch(images(), labels(), return_dict=True)


def test_each_execution_is_that_of_keras() -> None:
    """Outputs and a training step: those of a copy that Keras itself makes and runs."""
    backbone = network()
    alone = keras.models.clone_model(backbone)
    copies = {"copied": copied_network(backbone), "fused": fused_network(copied_network(backbone))}
    for model in (alone, *copies.values()):
        model.set_weights(backbone.get_weights())
    ensembles = {}
    for name, options in {
        "plain": {"execution": "plain", "run_eagerly": True},
        "traced": {"execution": "traced"},
        "recomputed": {"recompute": True},
    }.items():
        ensembles[name] = build_ensemble(
            backbone, MEMBERS, scheme="voting", jitter=0, sharing=["conv", "again"]
        )
        ensembles[name].compile(keras.optimizers.SGD(0.1), **options)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    inference, training = (alone(images(), training=mode).numpy() for mode in (False, True))
    alone.set_weights(backbone.get_weights())  # training has moved the statistics
    alone.get_layer("conv").trainable = False
    assert np.abs(training - inference).max() > 0.1
    expected = step(alone, loss)["loss"]
    for name, model in copies.items():
        np.testing.assert_allclose(
            model(images(), training=False), inference, rtol=1e-4, atol=1e-4, err_msg=name
        )
        model.get_layer("conv").trainable = False
        assert step(model, loss)["loss"] == pytest.approx(expected, rel=1e-4), name
        assert_same_weights(model, alone)
    for name, ensemble in ensembles.items():
        for logits in ensemble(images(), training=False)[:-1]:
            np.testing.assert_allclose(logits, inference, rtol=1e-4, atol=1e-4, err_msg=name)
        logs = ensemble.train_on_batch(images(), labels(), return_dict=True)
        for member in range(MEMBERS):
            assert logs[f"member_{member}_loss"] == pytest.approx(expected, rel=1e-4), name
            assert_same_weights(ensemble.member(member), alone)


def assert_same_weights(model: keras.Model, expected: keras.Model) -> None:
    for layer, same in zip(model.layers, expected.layers):
        for one, other in zip(layer.get_weights(), same.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4, err_msg=layer.name)


def test_dropout_that_always_draws_is_not_traced() -> None:
    image = keras.Input(SHAPE)
    x = keras.layers.BatchNormalization()(image)
    x = keras.layers.Dropout(0.5, name="always")(keras.layers.Flatten()(x), training=True)
    ensemble = build_ensemble(keras.Model(image, keras.layers.Dense(CLASSES)(x)), 2)
    ensemble.compile("sgd")
    assert not ensemble.is_traced
    first, second = (ensemble(images())[-1].numpy() for _ in "ab")
    assert (first != second).any()


def convertible() -> keras.Model:
    """What files can hold of `network`."""
    norm = keras.layers.BatchNormalization
    image = keras.Input(SHAPE, name="image")
    x = keras.layers.RandomCrop(6, 7)(image)  # draws if it is called without `training`
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(x)
    x = norm(name="by_position")(norm(name="by_name")(x, training=False), False)
    x = keras.layers.Dropout(0.5)(x, training=False)
    x = PReLU(shared_axes=[1, 2])(x, training=False)
    x = TrainsByDefault()(x)
    x = keras.layers.Lambda(lambda x, training=None: 3 * x if training else x)(x)
    x = lq.layers.QuantConv2D(4, 3, input_quantizer="ste_sign", kernel_quantizer="ste_sign")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return randomize(keras.Model(image, keras.layers.Dense(CLASSES)(x)))


def test_a_file_computes_what_keras_does(tmp_path) -> None:
    ensemble = build_ensemble(convertible(), MEMBERS, jitter=0.3)
    pixels = np.random.default_rng(0).integers(0, 256, (8, *SHAPE), np.uint8)
    constants = {"mean": [0.5] * 3, "std": [0.25] * 3}
    convert_ensemble(ensemble, tmp_path / "a.tflite", **constants)
    found = EnsembleInterpreter(tmp_path / "a.tflite").predict(pixels)
    expected = ensemble((pixels / 255 - 0.5) / 0.25, training=False)[-1]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_a_layer_that_always_trains_is_not_converted(tmp_path) -> None:
    image = keras.Input(SHAPE)
    x = keras.layers.BatchNormalization(name="always")(image, training=True)
    x = keras.layers.Dense(CLASSES)(keras.layers.Flatten()(x))
    ensemble = build_ensemble(keras.Model(image, x), 2)
    with pytest.raises(EnsembleError, match=r"always' .*is called with `training=True`"):
        convert_ensemble(ensemble, tmp_path / "a.tflite", mean=[0.0] * 3, std=[1.0] * 3)
