"""Ensembles of each family of networks: sharing, training, saving."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.ensembles import build_ensemble
from larq_ensemble.keras import keras, lq
from larq_ensemble.layers import RPReLU, RSign
from larq_ensemble.models import build_model
from larq_ensemble.models.keras_layers import KerasLayers
from larq_ensemble.network.architectures.birealnet import bireal_block
from larq_ensemble.network.architectures.reactnet import react_block
from larq_ensemble.network.architectures.resnet import residual_block, resnet
from larq_ensemble.runs import RunConfig, create_run, load_run

from ..conftest import CLASSES, SHAPE, images, labels, randomize

BLOCKS = {"resnet": residual_block, "birealnet": bireal_block, "reactnet": react_block}
POLICIES = ["fusion", "all_frozen", "c1", "c2", "c3", "none"]

# Of the layers with filters and the linear one, those that are each member's own.
OWN = {
    "fusion": {"linear"},
    "all_frozen": set(),
    "c1": {"conv1"},
    "c2": {"linear", "layer2_0_shortcut_conv"},
    "c3": {"linear", "layer1_0_conv2", "layer2_0_conv2"},
    "none": {"linear", "conv1", "layer2_0_shortcut_conv"}
    | {f"layer{stage}_0_conv{index}" for stage in (1, 2) for index in (1, 2)},
}


def two_stages(family: str) -> keras.Model:
    """Two blocks, the second with a convolution in its shortcut; for tests to change."""
    image = keras.Input(SHAPE, name="image")
    logits = resnet(
        KerasLayers(),
        image,
        classes=CLASSES,
        dropout=0.0,
        stages=(4, 6),
        blocks=(1, 1),
        block=BLOCKS[family],
    )
    return randomize(keras.Model(image, logits, name=family))


@pytest.fixture(scope="module", params=["birealnet", "reactnet"])
def family(request) -> tuple[str, keras.Model]:
    """A family's name and a small network of it, not to be changed; ResNets: `test_ensemble`."""
    return request.param, two_stages(request.param)


def bits(model: keras.Model) -> dict[tuple[str, int], bytes]:
    """Every weight, by its layer and its place there."""
    return {
        (layer.name, index): value.tobytes()
        for layer in model.layers
        for index, value in enumerate(layer.get_weights())
    }


@pytest.mark.parametrize("sharing", POLICIES)
def test_training_changes_exactly_the_members_own_weights(sharing: str, family) -> None:
    name, backbone = family
    ensemble = build_ensemble(backbone, 2, sharing=sharing)
    own = OWN[sharing] | ({"layer2_0_shortcut_conv"} if name == "reactnet" else set())
    filters = {
        layer.name
        for layer in backbone.layers
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))
    }
    shared = {layer.name for layer in ensemble.shared_layers()}
    assert shared == filters - own
    # Every member has thresholds, shifts and slopes of its own.
    for kind, count in ((RSign, 5), (RPReLU, 4)):
        layers = [layer for layer in ensemble.layers if isinstance(layer, kind)]
        assert len(layers) == (2 * count if name == "reactnet" else 0)
    before = bits(ensemble)
    ensemble.compile(keras.optimizers.Adam(0.05), execution="plain", run_eagerly=True)
    ensemble.train_on_batch(images(), labels())
    after = bits(ensemble)
    changed = {weight for weight in before if before[weight] != after[weight]}
    assert changed == {weight for weight in before if weight[0] not in shared}


@pytest.mark.parametrize("name", BLOCKS)
def test_training_lowers_the_loss(name: str) -> None:
    """Gradients reach every weight, through all the signs."""
    model = two_stages(name)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss)
    x, y = images(24), labels(24)
    x += 2 * np.eye(CLASSES)[y][:, np.newaxis, np.newaxis]  # A class is a color.
    before = bits(model)
    losses = [model.train_on_batch(x, y) for _ in range(20)]
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])
    for weight, value in bits(model).items():
        assert value != before[weight], weight


@pytest.mark.parametrize("name", ["resnet18", "birealnet18", "reactnet10"])
def test_shapes_and_parameters_by_hand(name: str) -> None:
    """At a width of 1/16: stages of 4, 8, 16 and 32 channels."""
    model = build_model(name, input_shape=(16, 16, 3), classes=10, width=1 / 16)
    adds = [layer for layer in model.layers if isinstance(layer, keras.layers.Add)]
    a_stage = {"resnet18": 2, "birealnet18": 4, "reactnet10": 2}[name]
    sizes = [(16, 16, 4), (8, 8, 8), (4, 4, 16), (2, 2, 32)]
    assert [layer.output_shape[1:] for layer in adds] == [
        size for size in sizes for _ in range(a_stage)
    ]
    assert model.output_shape == (None, 10)
    a_stage = {"resnet18": 4, "birealnet18": 4, "reactnet10": 2}[name]
    binary = a_stage * 9 * 4 * 4 + sum(
        9 * a * b + (a_stage - 1) * 9 * b * b for a, b in ((4, 8), (8, 16), (16, 32))
    )
    shortcuts = 4 * 8 + 8 * 16 + 16 * 32
    norms = {
        "resnet18": 4 + 6 * 4 + (4 + 6 * 8) + (8 + 6 * 16) + (16 + 6 * 32),
        "birealnet18": 2 * 4 + 4 * 4 + 5 * (8 + 16 + 32),
        "reactnet10": 4 + 2 * 4 + 3 * (8 + 16 + 32),
    }[name]
    activation = {
        "resnet18": 3 * 8,
        "birealnet18": 0,
        # Thresholds of the inputs of convolutions, then shift, slope and offset of each output.
        "reactnet10": (4 + 4) + (4 + 8 + 4) + (8 + 16 + 8) + (16 + 32 + 16)
        + 3 * 2 * (4 + 8 + 16 + 32),
    }[name]  # fmt: skip
    linear = 32 * 10 + 10
    stem = 27 * 4
    # Keras counts four values a channel of a batch norm.
    assert model.count_params() == stem + binary + shortcuts + 4 * norms + activation + linear


RUN = RunConfig(kind="ensemble", model={}, dataset={}, recipe={}, seed=0)


def test_a_loaded_ensemble_predicts_the_same(family, tmp_path) -> None:
    name, backbone = family
    ensemble = build_ensemble(backbone, 2)
    run = create_run(tmp_path / "run", RUN)
    run.save_model(ensemble)
    loaded = load_run(run.path).model
    for expected, output in zip(ensemble(images()), loaded(images()), strict=True):
        np.testing.assert_array_equal(expected, output)
    quantized = [layer for layer in loaded.layers if isinstance(layer, lq.layers.QuantConv2D)]
    assert len(quantized) == (4 if name == "birealnet" else 4 + 2)
