"""Ensembles of networks that were trained before: what is shared, combined and refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from larq_ensemble.ensembles import build_ensemble, ensemble_of
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.runtime.combination import combine

from ..conftest import CLASSES, SHAPE, images, randomize


class Offset(keras.layers.Layer):
    """A layer without `get_config`."""

    def __init__(self, values: np.ndarray) -> None:
        super().__init__()
        self.values = values

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs + self.values


def multiplied(factor: float) -> Callable[[tf.Tensor], tf.Tensor]:
    """Functions of one code, which a keyword brings the factor."""

    def multiply(x: tf.Tensor, *, by: float = factor) -> tf.Tensor:
        return x * by

    return multiply


def with_map(kind: str, value: float) -> keras.Model:
    """A network that adds an array of 2,048 numbers, of which `value` is one in the middle."""
    values = np.zeros((8, 256), np.float32)
    values[4, 128] = value
    image = keras.Input(SHAPE)
    x = keras.layers.Conv2D(256, 3, strides=(SHAPE[0] // 8, SHAPE[1]), padding="same")(image)
    x = keras.layers.Reshape((8, 256))(x)
    if kind == "argument":
        x = x + values
    elif kind == "lambda's argument":
        x = keras.layers.Lambda(lambda x, y: x + y, arguments={"y": values})(x)
    elif kind == "closure":
        x = keras.layers.Lambda(lambda x: x + values)(x)
    else:
        x = Offset(values)(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(image, keras.layers.Dense(CLASSES)(x))


def network(
    seed: int = 0,
    *,
    filters: int = 4,
    slope: float = 0.5,
    norm: bool = True,
    training: bool | None = None,
    function: Callable[[tf.Tensor], tf.Tensor] = tf.nn.relu,
) -> keras.Model:
    image = keras.Input(SHAPE)
    x = keras.layers.Conv2D(filters, 3, padding="same")(image)
    x = lq.layers.QuantConv2D(
        filters, 3, padding="same", input_quantizer="ste_sign", kernel_quantizer="ste_sign"
    )(keras.layers.BatchNormalization()(x, training=training) if norm else x)
    x = lq.layers.QuantConv2D(
        filters, 1, input_quantizer="ste_sign", kernel_quantizer="magnitude_aware_sign"
    )(x)
    y = keras.layers.Lambda(function)(x)
    x = keras.layers.LeakyReLU(slope)(x)
    x = keras.layers.Subtract()([x, y])
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(CLASSES, activation="softmax")(x)
    return randomize(keras.Model(image, x), seed)


def logits_of(model: keras.Model) -> np.ndarray:
    logits = np.log(model(images()).numpy())
    return logits - logits.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("scheme", ["voting", "fusion"])
def test_members_are_the_networks(scheme: str) -> None:
    models = [network(seed) for seed in range(3)]
    before = [model.get_weights() for model in models]
    ensemble = ensemble_of(models, scheme=scheme, weights=(3, 2, 1))
    *members, combined = ensemble(images())
    for member, model in zip(members, models):
        centred = member.numpy() - member.numpy().mean(axis=1, keepdims=True)
        np.testing.assert_allclose(centred, logits_of(model), rtol=1e-4, atol=1e-4)
    expected = combine(np.stack([*map(logits_of, models)]), scheme, (3, 2, 1))
    np.testing.assert_allclose(combined, expected, rtol=1e-4, atol=1e-5)
    assert ensemble.shared_layers() == []
    for model, weights in zip(models, before):
        for one, other in zip(model.get_weights(), weights):
            np.testing.assert_array_equal(one, other)


def test_what_is_equal_is_shared() -> None:
    """Latent weights of one sign are equal without a scale, and unequal with one."""
    models = [network(0), network(0)]
    _, norm, signs, scaled, _ = (layer for layer in models[1].layers if layer.weights)
    norm.gamma.assign(norm.gamma + 1.0)
    for layer in (signs, scaled):
        layer.kernel.assign(layer.kernel * 3.0)
    ensemble = ensemble_of(models)
    first = [layer.name for layer in models[0].layers if layer.weights]
    assert [layer.name for layer in ensemble.shared_layers()] == [first[0], first[2], first[4]]
    assert not any(layer.trainable for layer in ensemble.shared_layers())
    for member, model in zip(ensemble(images()), models):
        centred = member.numpy() - member.numpy().mean(axis=1, keepdims=True)
        np.testing.assert_allclose(centred, logits_of(model), rtol=1e-4, atol=1e-4)


def test_members_of_ensembles_are_networks_too() -> None:
    ensembles = [build_ensemble(network(0), 2, seed=seed) for seed in (1, 2)]
    models = [ensemble.member(member) for ensemble in ensembles for member in (0, 1)]
    ensemble = ensemble_of([models[3], models[0]], scheme="fusion")
    assert len(ensemble.shared_layers()) == 4  # jitter is on batch norm alone
    for member, model in zip(ensemble(images()), (models[3], models[0])):
        np.testing.assert_allclose(member, model(images()), rtol=1e-4, atol=1e-4)


def test_each_network_on_both_images() -> None:
    """Members: the networks on the image, then the networks on the mirrored one."""
    models = [network(0), network(1)]
    ensemble = ensemble_of(models, scheme="fusion", mirror=True, weights=(4, 3, 2, 1))
    mirrored = images()[:, :, ::-1]
    expected = np.stack(
        [np.log(model(x).numpy()) for x in (images(), mirrored) for model in models]
    )
    expected -= expected.mean(axis=2, keepdims=True)
    *members, combined = (x.numpy() for x in ensemble(images()))
    centred = np.stack(members) - np.stack(members).mean(axis=2, keepdims=True)
    np.testing.assert_allclose(centred, expected, rtol=1e-4, atol=1e-4)
    average = combine(expected, "fusion", (4, 3, 2, 1))
    np.testing.assert_allclose(combined, average, rtol=1e-4, atol=1e-5)
    assert ensemble.shared_layers() == []
    # One network shares with itself all but where it looks.
    both = ensemble_of(models[:1], mirror=True)
    for member, logits in zip(both(images())[:2], expected[::2]):
        member -= member.numpy().mean(axis=1, keepdims=True)
        np.testing.assert_allclose(member, logits, rtol=1e-4, atol=1e-4)
    assert len(both.shared_layers()) == sum(bool(layer.weights) for layer in models[0].layers)
    both.compile("sgd")
    with pytest.raises(EnsembleError, match=r"members are one network, .*: train that network"):
        both.fit(images(), np.zeros(len(images()), int), verbose=0)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"filters": 5}, r"layer 'conv2d.*' has filters = 5, but 'conv2d.*' has filters = 4"),
        ({"slope": 0.25}, r"layer 'leaky_re_lu.*' has alpha = 0\.25, but .* has alpha = 0\.5"),
        ({"norm": False}, r"layer .* has type = QuantConv2D, but .* has type = BatchNormalization"),
        ({"training": False}, r"layer 'batch_norm.*' has inputs = .*'training': 'False'"),
        ({"function": tf.nn.relu6}, r"layer 'lambda.*' has functions, but 'lambda"),
    ],
)
def test_models_of_other_architectures(other: dict, difference: str) -> None:
    with pytest.raises(EnsembleError, match="model 1 differs from model 0: its " + difference):
        ensemble_of([network(), network(**other)])


@pytest.mark.parametrize("kind", ["argument", "lambda's argument", "closure", "attribute"])
def test_a_number_among_many_that_differs(kind: str) -> None:
    """The text of an array, which NumPy shortens, is the same for both."""
    with pytest.raises(EnsembleError, match="must have one architecture, but model 1 differs"):
        ensemble_of([with_map(kind, 1.0), with_map(kind, 2.0)])
    models = [with_map(kind, 1.0) for _ in range(2)]
    assert ensemble_of(models).members == 2


def test_functions_of_one_code_that_bring_other_values() -> None:
    with pytest.raises(EnsembleError, match=r"layer 'lambda.*' has functions, but 'lambda"):
        ensemble_of([network(function=multiplied(factor)) for factor in (2.0, 3.0)])


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (list, r"`models` must be a list of trained Keras models, got \[\]"),
        (network, "`models` must be a list"),
        (lambda: [network(), network()], "compute with the same weights"),
        (lambda: [network(), None], r"`models` must be .*tf\.keras .*, but model 1 is None"),
        (
            lambda: ["cifar100-resnet20"],
            r"`models` .* model 0 is 'cifar.*`build_model\(.*weights",
        ),
        (lambda: "cifar100-resnet20", r"`models` must be a list .*`build_model\(.*weights"),
        (lambda: [ensemble_of([network(0), network(1)])], r"is an ensemble .*`\.member\(i\)`"),
    ],
)
@pytest.mark.parametrize("mirror", [False, True])
def test_what_no_ensemble_is_made_of(
    models: Callable[[], object], message: str, mirror: bool
) -> None:
    with pytest.raises(EnsembleError, match=message):
        ensemble_of(models(), mirror=mirror)


def test_an_ensemble_of_one_network_needs_another_image() -> None:
    with pytest.raises(EnsembleError, match=r"compute with the same weights.*`mirror`"):
        ensemble_of([network()])
    # Four members need four weights, and a network that mirrors already is no network to mirror.
    with pytest.raises(EnsembleError, match="weights"):
        ensemble_of([network(0), network(1)], mirror=True, weights=(1, 1))
    with pytest.raises(EnsembleError, match="has a Mirror layer already"):
        ensemble_of([ensemble_of([network()], mirror=True).member(1)], mirror=True)
