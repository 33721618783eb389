"""Multiply-accumulates against sums done by hand, and against what the paper says."""

from __future__ import annotations

import pytest

from larq_ensemble.ensembles import build_ensemble
from larq_ensemble.keras import keras
from larq_ensemble.models import build_model
from larq_ensemble.network.compute import Macs, count_macs
from larq_ensemble.training.paper.numbers import paper


def cifar_macs(name: str) -> Macs:
    return count_macs(build_model(name, input_shape=(32, 32, 3), classes=100))


@pytest.fixture(scope="module")
def resnet20() -> Macs:
    return cifar_macs("resnet20")


@pytest.fixture(scope="module")
def resnet18() -> Macs:
    return cifar_macs("resnet18")


def test_resnet20(resnet20) -> None:
    # Binary 3x3 convolutions by the stage's resolution: the first of a stage halves it.
    binary = (
        32 * 32 * 9 * (6 * 16 * 16)
        + 16 * 16 * 9 * (16 * 32 + 5 * 32 * 32)
        + 8 * 8 * 9 * (32 * 64 + 5 * 64 * 64)
    )
    real = 32 * 32 * 9 * 3 * 16 + 16 * 16 * 16 * 32 + 8 * 8 * 32 * 64 + 64 * 100
    assert resnet20 == Macs(binary, real)
    assert resnet20.total == binary + real


def test_resnet18(resnet18) -> None:
    binary = 32 * 32 * 9 * 4 * 64 * 64
    real = 32 * 32 * 9 * 3 * 64 + 512 * 100
    for size, channels in ((16, 128), (8, 256), (4, 512)):
        binary += size * size * 9 * (channels // 2 + 3 * channels) * channels
        real += size * size * channels // 2 * channels
    assert resnet18 == Macs(binary, real)


def test_against_the_paper(resnet18, resnet20) -> None:
    """The paper doesn't say what else than convolutions it counts: its figure is 5.5 % above.

    What that is, is about proportional to the convolutions: the ratio is within 1 %.
    """
    compute = paper()["compute"]
    assert resnet18.total == pytest.approx(compute["flops"]["resnet18"], rel=0.06)
    ratio = compute["flops_ratio"]["resnet18 / resnet20"]
    assert resnet18.total / resnet20.total == pytest.approx(ratio, rel=0.01)


def test_a_member_takes_what_its_backbone_takes(tiny) -> None:
    ensemble = build_ensemble(tiny, 2)
    assert count_macs(ensemble.member(1)) == count_macs(tiny)
    # Stem 4 filters on 8x8x3, 5 binary filters with stride 2, linear layer of 3 classes.
    assert count_macs(tiny) == Macs(binary=16 * 9 * 4 * 5, real=64 * 9 * 3 * 4 + 5 * 3)


def test_layers_of_other_networks() -> None:
    image = keras.Input((6, 6, 4))
    x = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=True)(image)
    x = keras.layers.SeparableConv2D(8, 3, strides=2, padding="same")(x)
    again = keras.layers.Conv2D(8, 1, groups=2)
    x = again(again(x))
    x = keras.layers.Dense(5)(x)  # at each of the 3x3 positions
    model = keras.Model(image, x)
    assert count_macs(model) == Macs(
        binary=0,
        real=36 * 9 * 4 + (9 * 9 * 4 + 9 * 4 * 8) + 2 * (9 * 4 * 8) + 9 * 8 * 5,
    )
