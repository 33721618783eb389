"""Multiply-accumulates against sums by hand and against the paper."""

from __future__ import annotations

import pytest

from larq_ensemble.ensembles import build_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras
from larq_ensemble.models import layer_graph
from larq_ensemble.network.architectures import trace_model
from larq_ensemble.network.compute import Macs, count_macs
from larq_ensemble.training.paper.numbers import paper


def cifar_macs(name: str) -> Macs:
    return count_macs(trace_model(name, input_shape=(32, 32, 3), classes=100))


def test_resnet20_by_hand() -> None:
    # Binary 3x3 convolutions by the stage's resolution: the first of a stage halves it.
    binary = (
        32 * 32 * 9 * (6 * 16 * 16)
        + 16 * 16 * 9 * (16 * 32 + 5 * 32 * 32)
        + 8 * 8 * 9 * (32 * 64 + 5 * 64 * 64)
    )
    real = 32 * 32 * 9 * 3 * 16 + 16 * 16 * 16 * 32 + 8 * 8 * 32 * 64 + 64 * 100
    assert cifar_macs("resnet20") == Macs(binary, real)
    assert cifar_macs("resnet20").total == binary + real


def test_resnet18_by_hand() -> None:
    binary = 32 * 32 * 9 * 4 * 64 * 64
    real = 32 * 32 * 9 * 3 * 64 + 512 * 100
    for size, channels in ((16, 128), (8, 256), (4, 512)):
        binary += size * size * 9 * (channels // 2 + 3 * channels) * channels
        real += size * size * channels // 2 * channels
    assert cifar_macs("resnet18") == Macs(binary, real)


def test_the_paper_counts_little_more() -> None:
    """The paper counts 5.5 % more without saying what; the networks' ratio agrees within 1 %."""
    compute = paper()["compute"]
    resnet18, resnet20 = cifar_macs("resnet18"), cifar_macs("resnet20")
    assert resnet18.total == pytest.approx(compute["flops"]["resnet18"], rel=0.06)
    ratio = compute["flops_ratio"]["resnet18 / resnet20"]
    assert resnet18.total / resnet20.total == pytest.approx(ratio, rel=0.01)


def test_a_member_computes_as_much_as_its_backbone(tiny) -> None:
    ensemble = build_ensemble(tiny, 2)
    of_backbone = count_macs(layer_graph(tiny))
    assert count_macs(layer_graph(ensemble.member(1))) == of_backbone
    # Stem 4 filters on 8x8x3, 5 binary filters with stride 2, linear layer of 3 classes.
    assert of_backbone == Macs(binary=16 * 9 * 4 * 5, real=64 * 9 * 3 * 4 + 5 * 3)


def test_layers_of_other_networks() -> None:
    image = keras.Input((6, 6, 4))
    x = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=True)(image)
    x = keras.layers.SeparableConv2D(8, 3, strides=2, padding="same")(x)
    again = keras.layers.Conv2D(8, 1, groups=2)
    x = again(again(x))
    x = keras.layers.Dense(5)(x)  # at each of the 3x3 positions
    model = keras.Model(image, x)
    assert count_macs(layer_graph(model)) == Macs(
        binary=0,
        real=36 * 9 * 4 + (9 * 9 * 4 + 9 * 4 * 8) + 2 * (9 * 4 * 8) + 9 * 8 * 5,
    )


def test_a_layer_that_is_called_at_several_resolutions() -> None:
    image = keras.Input((8, 8, 2))
    conv = keras.layers.Conv2D(2, 3, padding="same")
    x = conv(keras.layers.MaxPooling2D(2)(conv(image)))
    x = keras.layers.Dense(3)(keras.layers.Flatten()(x))
    conv(keras.Input((32, 32, 2)))  # No part of the model.
    model = keras.Model(image, x)
    assert count_macs(layer_graph(model)) == Macs(
        binary=0, real=(8 * 8 + 4 * 4) * 9 * 2 * 2 + 4 * 4 * 2 * 3
    )


def test_a_transposed_convolution() -> None:
    """Each input position is multiplied with the whole kernel."""
    image = keras.Input((4, 6, 2))
    x = keras.layers.Conv2DTranspose(5, 3, strides=2)(image)
    x = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    expected = Macs(binary=0, real=4 * 6 * 9 * 2 * 5 + 5 * 3)
    assert count_macs(layer_graph(keras.Model(image, x))) == expected


def test_images_of_any_size() -> None:
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, name="stem")(image)
    x = keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x))
    graph = layer_graph(keras.Model(image, x))
    assert graph["stem"].bits == 32 * (9 * 3 * 4 + 4)
    with pytest.raises(EnsembleError, match="image size of layer 'stem' is unknown"):
        count_macs(graph)
