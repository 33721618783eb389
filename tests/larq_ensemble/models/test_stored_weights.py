"""Networks that are packed and unpacked compute the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from larq_ensemble import EnsembleError, build_ensemble, build_model, load_ensemble, pretrained
from larq_ensemble.data.normalization import Normalization
from larq_ensemble.ensembles.stored import stored_network, stored_weights
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.layers import Mirror
from larq_ensemble.models.stored_weights import layers_of, restore, stored_arrays
from larq_ensemble.network.architectures import MODELS, Architecture
from larq_ensemble.network.architectures.resnet import residual_block
from larq_ensemble.pretrained.catalog import Shipped
from larq_ensemble.pretrained.samples import read_samples, sample_names
from larq_ensemble.pretrained.weights import Signs, StoredWeights, read_weights, write_weights
from larq_ensemble.runs import RunConfig
from larq_ensemble.trained import open_trained

NORMALIZATION = Normalization([0.5] * 3, [0.25] * 3)
#: Kernel quantizer -> whether signs and magnitudes are all that it computes with.
QUANTIZERS = {
    "magnitude_aware_sign": True,
    "ste_sign": True,
    "approx_sign": True,
    "swish_sign": True,
    "ste_tern": False,
    "dorefa_quantizer": False,
    None: False,
}


def randomized(model: keras.Model) -> keras.Model:
    draw = np.random.default_rng(0)
    for weight in model.weights:
        if not weight.dtype.is_floating:
            continue
        low = 0.5 if "variance" in weight.name else -1.0
        weight.assign(draw.uniform(low, 1.5, weight.shape))
    return model


def quantized(seed: int = 0) -> keras.Model:
    """A convolution of each quantizer in a row, and a PReLU of a slope per channel."""
    image = x = keras.Input((6, 6, 2))
    for number, quantizer in enumerate(QUANTIZERS):
        x = lq.layers.QuantConv2D(
            4, 3, padding="same", kernel_quantizer=quantizer, name=f"conv{number}"
        )(x)
        x = keras.layers.PReLU(shared_axes=[1, 2], name=f"prelu{number}")(x)
        x = keras.layers.BatchNormalization(name=f"norm{number}")(x)
    return randomized(keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(x))))


def test_every_quantizer_computes_the_same():
    model, other = quantized(), quantized()
    for weight in other.weights:
        weight.assign(tf.ones_like(weight))
    arrays = stored_arrays(layers_of(model))
    for number, binary in enumerate(QUANTIZERS.values()):
        assert isinstance(arrays[f"conv{number}/kernel"], Signs) == binary
    # Names of layers that Keras numbers itself differ between the two.
    renamed = dict(zip(layers_of(model), layers_of(other)))
    arrays = {
        f"{renamed[key.rpartition('/')[0]]}/{key.rpartition('/')[2]}": array
        for key, array in arrays.items()
    }
    restore(layers_of(other), StoredWeights({}, "", arrays))
    images = np.random.default_rng(1).normal(size=(4, 6, 6, 2)).astype(np.float32)
    np.testing.assert_allclose(model(images), other(images), rtol=1e-4, atol=1e-4)


def test_weights_of_another_network_are_refused():
    model = keras.Sequential([keras.layers.Dense(2, name="dense", input_shape=(3,))])
    arrays = stored_arrays(layers_of(model))
    wrong = [
        {**arrays, "more/kernel": np.zeros(1, np.float32)},
        {"dense/kernel": arrays["dense/kernel"]},
        {**arrays, "dense/bias": np.zeros(3, np.float32)},
    ]
    for each, name in zip(wrong, ("more/kernel", "dense/bias", "dense/bias")):
        with pytest.raises(EnsembleError, match=f"don't fit the network, at '{name}'"):
            restore(layers_of(model), StoredWeights({}, "", each))


def config(kind: str, **ensemble) -> dict:
    model = {
        "name": "tiny",
        "input_shape": [8, 8, 3],
        "classes": 3,
        "width": 1.0,
        "dropout": 0.0,
        "pad_values": None,
        "estimator": None,
        "prelu_gradient": "slope",
        "revision": 2,
    }
    dataset = {"name": "x", "classes": 3, "input_shape": [8, 8, 3], **NORMALIZATION.to_json()}
    return RunConfig(kind, model, dataset, {}, seed=0, ensemble=ensemble).to_json()


@pytest.fixture
def tiny_backbone(monkeypatch):
    monkeypatch.setitem(MODELS._entries, "tiny", Architecture(residual_block, (8, 16), (0, 1)))
    return randomized(build_model("tiny", input_shape=(8, 8, 3), classes=3))


def through_a_file(model, settings, path) -> keras.Model:
    write_weights(path, stored_weights(model, settings, "0" * 64))
    return stored_network(read_weights(path))


@pytest.mark.parametrize("mirror", [False, True])
def test_an_ensemble_computes_the_same(tiny_backbone, tmp_path, mirror):
    sharing, scheme, weights = "c3", "voting", [3.0, 2.0]
    ensemble = randomized(
        build_ensemble(
            tiny_backbone,
            2,
            sharing=sharing,
            scheme=scheme,
            weights=weights,
            normalization=NORMALIZATION,
            mirror=mirror,
        )
    )
    settings = config("ensemble", members=2, sharing=sharing, scheme=scheme, mirror=mirror)
    path = tmp_path / "network.npz"
    restored = through_a_file(ensemble, settings, path)
    images = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype(np.float32)
    for expected, found in zip(ensemble(images), restored(images), strict=True):
        np.testing.assert_allclose(expected, found, rtol=1e-4, atol=1e-4)
    assert restored.normalization == NORMALIZATION
    assert restored.member_weights == tuple(weights)
    assert [layer.trainable for layer in restored.layers] == [
        layer.trainable for layer in ensemble.layers
    ]
    stored = read_weights(path)
    filters = {key: each for key, each in stored.arrays.items() if isinstance(each, Signs)}
    # The first convolution of the block is shared, the last one is each member's.
    assert sorted(each.magnitudes.ndim for each in filters.values()) == [1, 2]


def test_a_backbone_computes_the_same(tiny_backbone, tmp_path):
    restored = through_a_file(tiny_backbone, config("backbone"), tmp_path / "network.npz")
    images = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(tiny_backbone(images), restored(images), rtol=1e-4, atol=1e-4)


def test_a_network_of_another_is_not_stored(tiny_backbone):
    settings = config("backbone")
    settings["model"]["source"] = "mine.keras"
    with pytest.raises(EnsembleError, match="'tiny' is not of `build_model`"):
        stored_weights(tiny_backbone, settings, "")


def smallest(members: bool) -> Shipped | None:
    networks = map(pretrained.shipped, pretrained.names())
    kind = [each for each in networks if (each.card["members"] > 1) == members]
    return min(kind, key=lambda each: each.card["files"]["weights"]["bytes"], default=None)


def agreement(network: Shipped, logits: np.ndarray, count: int) -> float:
    """The share of embedded images for which a Keras model predicts what the card recorded."""
    recorded = np.array(network.card["samples"]["predictions"][count - 1])[: len(logits)]
    return float((np.argmax(logits, axis=1) == recorded).mean())


def normalized(network: Shipped) -> np.ndarray:
    samples = read_samples(network.card["samples"]["dataset"])
    return open_trained(network.name).normalization(samples.images[:16])


@pytest.mark.skipif(not sample_names(), reason="no samples")
def test_the_smallest_backbone_of_the_package():
    if (network := smallest(members=False)) is None:
        pytest.skip("there is no single network")
    card = network.card
    model = build_model(
        card["model"]["name"], weights=card["data"]["name"], width=card["model"]["width"]
    )
    assert agreement(network, model(normalized(network)), 1) > 0.9
    for argument, value in (("classes", 7), ("width", 3.0), ("input_shape", (64, 64, 3))):
        with pytest.raises(EnsembleError, match=f"`{argument}` .* contradicts `weights`"):
            build_model(card["model"]["name"], weights=network.name, **{argument: value})
    with pytest.raises(EnsembleError, match="is a single network: `build_model"):
        load_ensemble(network.name)


def first_members(stored: StoredWeights, count: int) -> StoredWeights:
    """The weights of the first members: an ensemble of all takes seconds to build."""
    arrays = {
        key: Signs.of(array.latent[:count], leading=1)
        if isinstance(array, Signs) and key.partition("/")[0] in stored.own
        else array[:count]
        if key.partition("/")[0] in stored.own
        else array
        for key, array in stored.arrays.items()
    }
    options = {**stored.config["ensemble"], "members": count}
    return replace(
        stored,
        config={**stored.config, "ensemble": options},
        arrays=arrays,
        member_weights=stored.member_weights and stored.member_weights[:count],
    )


def test_the_smallest_ensemble_of_the_package(monkeypatch):
    if (network := smallest(members=True)) is None:
        pytest.skip("there is no ensemble")
    monkeypatch.setattr(Shipped, "weights", first_members(network.weights, 2))
    ensemble = load_ensemble(network.name, compile=False)
    assert (ensemble.members, ensemble.classes) == (2, network.card["data"]["classes"])
    # The heads of the file have 8 bits, so a few predictions differ.
    assert agreement(network, ensemble(normalized(network))[-1], 2) > 0.8
    # Its first member is the single network, which the name stands for, too.
    single = build_model(network.card["model"]["name"], weights=network.name)
    np.testing.assert_array_equal(single(normalized(network)), ensemble(normalized(network))[0])
    assert not any(isinstance(layer, Mirror) for layer in single.layers)
    opened = open_trained(network.name, "backbone")
    assert opened.config.kind == "backbone"
    assert opened.digest == network.weights.config["ensemble"]["backbone"]
    assert open_trained(network.name).config.kind == "ensemble"
    with pytest.raises(EnsembleError, match=r"`kind` must be 'backbone', .* got 'single'"):
        open_trained(network.name, "single")
    with pytest.raises(
        EnsembleError, match=f"{network.name!r} is of the network .*, not 'resnet18'"
    ):
        build_model("resnet18", weights=network.name)


@pytest.mark.parametrize("sharing", ["fusion", "c3"])
def test_the_single_network_of_an_ensemble(tiny_backbone, tmp_path, sharing):
    """To the bit what a file of the single network has; `c3`: members own binary filters too."""
    expected = stored_weights(tiny_backbone, config("backbone"), "b")
    options = {"members": 3, "sharing": sharing, "scheme": "nested_fusion", "mirror": True}
    ensemble = build_ensemble(tiny_backbone, keep_pretrained=2, **options)
    for layer in ensemble.layers:
        if layer.trainable:  # those of the member that is trained
            randomized(layer)
    settings = config("ensemble", keep_pretrained=2, backbone="b", **options)
    path = tmp_path / "network.npz"
    write_weights(path, stored_weights(ensemble, settings, "e"))
    stored = read_weights(path)
    owned = [key for key in stored.arrays if key.rpartition("/")[0] in stored.own]
    assert any((stored.values(key)[0] != stored.values(key)[2]).any() for key in owned)
    single = stored.single()
    assert (single.config["kind"], single.run_hash, single.own) == ("backbone", "b", frozenset())
    assert single.arrays.keys() == expected.arrays.keys()
    for key in single.arrays:
        np.testing.assert_array_equal(single.values(key), expected.values(key))
    settings["ensemble"].pop("keep_pretrained")
    assert replace(stored, config=settings).single() is None
    assert expected.single() is expected


def test_needed_arguments_and_unknown_names():
    for width in ("1", True):
        with pytest.raises(EnsembleError, match=f"`width` must be a number, got {width!r}"):
            build_model("resnet20", weights="cifar100", width=width)
    with pytest.raises(EnsembleError, match="`input_shape` and `classes` are needed"):
        build_model("resnet20", classes=10)
    with pytest.raises(EnsembleError, match=r"No ensemble at 'none'.*or the name of one"):
        load_ensemble("none")
