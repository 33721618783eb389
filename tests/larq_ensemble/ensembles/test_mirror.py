"""Ensembles whose members of odd numbers see the image mirrored."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.ensembles import (
    build_ensemble,
    build_member,
    fit_members,
    load_ensemble,
)
from larq_ensemble.ensembles.names import own_name
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras
from larq_ensemble.layers import Mirror
from larq_ensemble.models import layer_graph

from ..conftest import CLASSES, images, labels, tiny_backbone

MEMBERS = 3


def mirrored(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x[:, :, ::-1])


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone()


def columns(ensemble) -> list[np.ndarray]:
    layers = (ensemble.get_layer(own_name(member, "mirror")) for member in range(ensemble.members))
    return [layer.columns.numpy() for layer in layers]


@pytest.mark.parametrize("sharing", ["fusion", "all_frozen", "none"])
def test_members_of_odd_numbers_see_the_mirrored_image(backbone, sharing):
    ensemble = build_ensemble(backbone, MEMBERS, sharing=sharing, jitter=0, mirror=True)
    x = images()
    outputs = ensemble(x)
    for member, seen in enumerate((x, mirrored(x), x)):
        np.testing.assert_allclose(outputs[member], backbone(seen), rtol=1e-5, atol=1e-6)
    assert np.abs(outputs[0] - outputs[1]).max() > 0.01
    assert not any(isinstance(layer, Mirror) for layer in ensemble.shared_layers())
    np.testing.assert_array_equal(backbone(x), tiny_backbone()(x))  # it stays as it was


@pytest.mark.parametrize("recompute", [False, True])
def test_training_mirrors_too_and_leaves_the_columns(backbone, recompute):
    """A step is that of an ensemble with independent inputs that gets the images mirrored."""
    x, y = images(), labels()
    trained = []
    for independent in (False, True):
        ensemble = build_ensemble(
            backbone,
            2,
            scheme="voting",
            seed=1,
            mirror=not independent,
            independent_inputs=independent,
        )
        ensemble.compile(keras.optimizers.SGD(0.1), recompute=recompute)
        assert ensemble.is_traced is not recompute
        inputs = [x, mirrored(x)] if independent else x
        for _ in range(2):
            ensemble.train_on_batch(inputs, {"member_0": y, "member_1": y} if independent else y)
        trained.append(ensemble)
    one, other = trained
    for layer in other.own_layers(0) + other.own_layers(1):
        for weight, expected in zip(one.get_layer(layer.name).weights, layer.weights, strict=True):
            np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-5, err_msg=weight.name)
    np.testing.assert_array_equal(columns(one), [np.arange(8), np.arange(8)[::-1]])


def test_it_goes_with_keeping_the_pretrained_network(backbone):
    ensemble = build_ensemble(backbone, 2, keep_pretrained=True, mirror=True)
    ensemble.compile("sgd")
    ensemble.train_on_batch(images(), labels())
    np.testing.assert_allclose(ensemble(images())[0], backbone(images()), rtol=1e-5, atol=1e-6)


def test_it_keeps_the_pretrained_network_on_both_images(tmp_path):
    """Two members are that, in training as well, where Dropout would disturb them."""
    backbone = tiny_backbone(dropout=0.5)
    ensemble = build_ensemble(
        backbone, MEMBERS, scheme="nested_fusion", keep_pretrained=2, mirror=True
    )
    ensemble.compile(keras.optimizers.SGD(0.1))
    start = ensemble(images())
    for _ in range(2):
        ensemble.train_on_batch(images(), labels())
    ensemble.save(tmp_path / "kept.keras")
    loaded = load_ensemble(tmp_path / "kept.keras")
    for trained in (ensemble, loaded):
        assert [bool(trained.member(i).trainable_weights) for i in range(3)] == [False, False, True]
        outputs = trained(images(), training=True)
        for member, seen in enumerate((images(), mirrored(images()))):
            np.testing.assert_allclose(outputs[member], backbone(seen), rtol=1e-5, atol=1e-6)
    assert np.abs(ensemble(images())[2] - start[2]).max() > 0.01


def test_a_member_alone_is_that_of_the_ensemble(backbone):
    ensemble = build_ensemble(backbone, 2, seed=3, mirror=True)
    member = build_member(backbone, 1, seed=3, mirror=True)
    np.testing.assert_allclose(member(images()), ensemble(images())[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scheme", ["voting", "snapshot"])
def test_members_that_are_trained_in_turn(backbone, tmp_path, scheme):
    """Also if a member starts from the weights of the one before."""
    options = {"scheme": scheme, "mirror": True, "epochs": 2, "verbose": 0, "seed": 2}
    ensemble = fit_members(backbone, images(), labels(), members=2, folder=tmp_path, **options)
    np.testing.assert_array_equal(columns(ensemble), [np.arange(8), np.arange(8)[::-1]])
    with pytest.raises(EnsembleError, match="folder"):
        fit_members(
            backbone, images(), labels(), members=2, folder=tmp_path, **{**options, "mirror": False}
        )


def test_saving(backbone, tmp_path):
    ensemble = build_ensemble(backbone, 2, mirror=True)
    ensemble.save(tmp_path / "mirrored.keras")
    loaded = load_ensemble(tmp_path / "mirrored.keras")
    loaded.compile("sgd")
    assert loaded.is_traced
    for actual, expected in zip(loaded(images()), ensemble(images()), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_what_it_costs(backbone):
    """The order of the columns, 32 bits each."""
    plain, mirroring = (build_ensemble(backbone, 2, mirror=flag) for flag in (False, True))
    bits = [
        sum(layer.bits for layer in layer_graph(ensemble.member(0)))
        for ensemble in (plain, mirroring)
    ]
    assert bits[1] - bits[0] == 8 * 32


def test_the_name_may_be_taken():
    image = keras.Input((8, 8, 3))
    x = keras.layers.Flatten(name="mirror")(image)
    backbone = keras.Model(image, keras.layers.Dense(CLASSES)(x))
    ensemble = build_ensemble(backbone, 2, jitter=0, mirror=True)
    np.testing.assert_allclose(
        ensemble(images())[1], backbone(mirrored(images())), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("shape", [(8,), (8, None, 3)])
def test_other_inputs_are_refused(shape):
    image = keras.Input(shape)
    x = keras.layers.GlobalAveragePooling2D()(image) if len(shape) == 3 else image
    backbone = keras.Model(image, keras.layers.Dense(CLASSES)(x))
    with pytest.raises(EnsembleError, match=r"`mirror` is for images.* of a known width"):
        build_ensemble(backbone, 2, mirror=True)


def test_what_would_mirror_wrong_is_refused(backbone):
    member = build_ensemble(backbone, 2, mirror=True).member(1)
    with pytest.raises(EnsembleError, match="has a Mirror layer already"):
        build_ensemble(member, 2, mirror=True)
    image = keras.Input((3, 8, 6))
    x = keras.layers.GlobalAveragePooling2D(data_format="channels_first")(image)
    first = keras.Model(image, keras.layers.Dense(CLASSES)(x))
    with pytest.raises(EnsembleError, match="have the channels first"):
        build_ensemble(first, 2, mirror=True)
    with pytest.raises(EnsembleError, match="there is one member"):
        fit_members(backbone, images(), labels(), members=1, scheme="voting", mirror=True)


class NoConfig(keras.layers.Layer):
    """Can't be copied."""

    def get_config(self):
        raise NotImplementedError

    def call(self, inputs):
        return inputs


@pytest.mark.parametrize("options", [{"mirror": True}, {"sharing": "all_frozen"}])
def test_a_layer_that_cannot_be_copied_is_called_by_all(options):
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(2, 3)(NoConfig(name="as_it_is")(image))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization()(x))
    backbone = keras.Model(image, keras.layers.Dense(CLASSES)(x))
    ensemble = build_ensemble(backbone, 2, jitter=0, **options)
    np.testing.assert_allclose(ensemble(images())[0], backbone(images()), rtol=1e-5, atol=1e-6)


def test_images_keep_their_precision():
    """Under a policy of half precision, too, if the first layer takes float32."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        layer = Mirror()
        np.testing.assert_array_equal(layer(images()), images())
    finally:
        keras.mixed_precision.set_global_policy("float32")
