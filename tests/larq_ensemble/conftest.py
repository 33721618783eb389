"""Networks small enough to build, train and save within a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

CLASSES = 3
SHAPE = (8, 8, 3)


def images(n: int = 12, shape=SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype(np.float32)


def labels(n: int = 12, classes: int = CLASSES, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, 1]).integers(0, classes, n)


def randomize(model, seed: int = 0):
    """Gives every weight a value that no initializer gives, so that a mix-up shows."""
    draw = np.random.default_rng(seed)
    for weight in model.weights:
        if "moving_variance" in weight.name:
            weight.assign(draw.uniform(0.5, 2, weight.shape))
        elif "gamma" in weight.name:
            weight.assign(draw.normal(1, 0.3, weight.shape))
        else:
            weight.assign(draw.normal(0, 0.4, weight.shape))
    return model


def tiny_backbone(*, dropout: float = 0.0, seed: int = 0, **options):
    """Stem, one binary convolution, linear layer, with everything that a member owns between."""
    from larq_ensemble.keras import keras
    from larq_ensemble.models.keras_layers import KerasLayers

    layers = KerasLayers(**options)
    image = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(4, 3, name="conv1")(image)
    x = layers.BatchNormalization(name="conv1_bn")(x)
    x = layers.QuantConv2D(5, 3, strides=2, name="layer1_conv")(x)
    x = layers.PReLU(shared_axes=[1, 2, 3], name="layer1_prelu")(x)
    x = layers.BatchNormalization(name="layer1_bn")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Dense(CLASSES, name="linear")(x)
    return randomize(keras.Model(image, x, name="tiny"), seed)


@contextmanager
def drawn_from_variables() -> Iterator[None]:
    """Dropout of layers built here draws from variables, so that a step can be repeated."""
    from larq_ensemble.keras import keras

    keras.backend.experimental.enable_tf_random_generator()
    try:
        yield
    finally:
        keras.backend.experimental.disable_tf_random_generator()


@pytest.fixture
def repeatable() -> Iterator[None]:
    """`drawn_from_variables` while a test runs."""
    with drawn_from_variables():
        yield


@pytest.fixture(scope="session")
def tiny():
    """The tiny backbone; tests must leave it as it is."""
    return tiny_backbone()


@pytest.fixture(scope="session")
def resnet20():
    """XNOR-ResNet-20 with a quarter of the channels, randomized; not to be changed."""
    from larq_ensemble.models import build_model

    return randomize(build_model("resnet20", input_shape=SHAPE, classes=10, width=0.25))
