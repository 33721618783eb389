"""Small ensembles whose members differ a lot, converted once for all tests."""

from __future__ import annotations

import functools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from larq_ensemble.convert import pipeline
from larq_ensemble.convert.conversion import ConversionReport, convert_ensemble
from larq_ensemble.convert.passes import (
    constant_deduplication,
    dead_code,
    member_branches,
    member_subgraphs,
    shared_trunk,
)
from larq_ensemble.data.datasets import DATASETS
from larq_ensemble.ensembles.building import build_ensemble
from larq_ensemble.ir.graph import Module
from larq_ensemble.ir.verifier import verify
from larq_ensemble.keras import keras, lq
from larq_ensemble.models.keras_layers import KerasLayers
from larq_ensemble.network.architectures.resnet import resnet
from larq_ensemble.runs import Run, RunConfig, create_run
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.backends import choice

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


#: Passes that leave no dead code behind.
LEAVE_NO_DEAD_CODE = {
    module.run
    for module in (
        *(constant_deduplication, dead_code),
        *(member_branches, member_subgraphs, shared_trunk),
    )
}


@pytest.fixture(scope="module", autouse=True)
def _on_lce() -> Iterator[None]:
    """Files run on LCE if a test doesn't say otherwise: its kernels are equal to the bit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "BACKENDS", ("lce", "litert"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _verified_passes() -> Iterator[None]:
    """Every conversion in these tests verifies the graph after each pass."""
    run = pipeline.Step.__call__

    def run_and_verify(step: pipeline.Step, module: Module) -> Counter[str]:
        counts = run(step, module)
        verify(module, no_dead_code=step.run in LEAVE_NO_DEAD_CODE)
        return counts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.Step, "__call__", run_and_verify)
        yield


def randomized(model: keras.Model, seed: int = 0) -> keras.Model:
    """Random parameters, of members also filters: members that a mix-up would betray."""
    draw = np.random.default_rng(seed)
    value = {
        "gamma": lambda shape: draw.normal(1, 0.4, shape),
        "beta": lambda shape: draw.normal(0, 0.5, shape),
        "moving_mean": lambda shape: draw.normal(0, 0.5, shape),
        "moving_variance": lambda shape: draw.uniform(0.3, 2, shape),
        "alpha": lambda shape: draw.uniform(-0.3, 0.6, shape),
        "bias": lambda shape: draw.normal(0, 0.3, shape),
    }
    for layer in model.layers:
        for weight in layer.weights:
            kind = weight.name.split("/")[-1].split(":")[0]
            if kind in value:
                weight.assign(value[kind](weight.shape))
            elif layer.name.startswith("member_") and weight.dtype.is_floating:
                weight.assign(draw.normal(0, 0.3, weight.shape))
    return model


def small_backbone(
    size: int = 16,
    widths: tuple[int, ...] = (8, 16),
    channels: int = 3,
    classes: int = 7,
    **options: Any,
) -> keras.Model:
    """The paper's network with one block a stage, the same at every call."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((size, size, channels))
    outputs = resnet(
        KerasLayers(**options),
        inputs,
        classes=classes,
        dropout=0.5,
        stages=widths,
        blocks=[1] * len(widths),
    )
    return keras.Model(inputs, outputs)


@functools.cache
def _made_once(**options: Any) -> keras.Model:
    return small_backbone(**options)


def shared_backbone(**options: Any) -> keras.Model:
    """`small_backbone`, each made once; not to be changed, as by building ensembles it isn't."""
    backbone = _made_once(**options)
    keras.utils.set_random_seed(0)  # what follows draws the same, whoever made the backbone
    return backbone


def small_ensemble(members: int, **options: Any) -> keras.Model:
    return randomized(build_ensemble(shared_backbone(), members, **options))


def foreign_backbone() -> keras.Model:
    """What a Larq user may have: one-padding, max pooling, ReLU, norms without scale, Flatten."""
    binary = {
        "input_quantizer": "ste_sign",
        "kernel_quantizer": "ste_sign",
        "kernel_constraint": "weight_clip",
        "use_bias": False,
    }
    inputs = keras.Input((12, 10, 1))
    x = keras.layers.Conv2D(32, 3, padding="valid", use_bias=True, name="first")(inputs)
    x = keras.layers.MaxPooling2D(2, name="pool")(x)
    x = keras.layers.BatchNormalization(scale=False, name="norm_a")(x)
    x = lq.layers.QuantConv2D(32, 3, padding="same", pad_values=1, name="binary_a", **binary)(x)
    x = keras.layers.ReLU(name="relu")(x)
    x = keras.layers.BatchNormalization(center=False, name="norm_b")(x)
    y = lq.layers.QuantConv2D(32, 3, padding="same", pad_values=1, name="binary_b", **binary)(x)
    y = keras.layers.PReLU(shared_axes=[1, 2], name="prelu_channels")(y)
    x = keras.layers.PReLU(name="prelu_all")(x + y)
    x = keras.layers.Flatten(name="flatten")(x)
    x = lq.layers.QuantDense(16, name="dense")(x)
    x = keras.layers.Dropout(0.5, name="dropout")(x)
    return keras.Model(inputs, keras.layers.Dense(5, activation="softmax", name="logits")(x))


def quicknet_backbone() -> keras.Model:
    """A QuickNet in small (Bannink et al. 2021): the parts of larq-zoo's, one block a section.

    Stem of a strided and a depthwise convolution; blocks of a one-padded binary convolution with
    ReLU and batch norm around which the shortcut goes; transitions of blur pooling.
    """

    def norm(x: Any, name: str) -> Any:
        return keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)

    def section(x: Any, filters: int, name: str) -> Any:
        y = lq.layers.QuantConv2D(
            filters,
            3,
            activation="relu",
            input_quantizer="ste_sign",
            kernel_quantizer="ste_sign",
            kernel_constraint="weight_clip",
            padding="same",
            pad_values=1,
            use_bias=False,
            name=f"{name}_conv",
        )(x)
        return x + norm(y, name)

    def conv(x: Any, filters: int, kernel: int, name: str, **options: Any) -> Any:
        layer = keras.layers.Conv2D(
            filters, kernel, padding="same", use_bias=False, name=name, **options
        )
        return layer(x)

    def depthwise(x: Any, name: str) -> Any:
        layer = keras.layers.DepthwiseConv2D(
            3, strides=2, padding="same", use_bias=False, name=name
        )
        return layer(x)

    keras.utils.set_random_seed(0)
    inputs = keras.Input((24, 24, 3))
    x = keras.layers.ReLU()(norm(conv(inputs, 8, 3, "stem_conv", strides=2), "stem"))
    x = norm(conv(depthwise(x, "stem_depthwise"), 16, 1, "stem_pointwise"), "stem_out")
    x = section(x, 16, "section0")
    x = keras.layers.ReLU()(x)
    x = keras.layers.MaxPool2D(3, strides=1, padding="same")(x)
    x = conv(depthwise(x, "transition_blur"), 32, 1, "transition_conv")
    x = section(norm(x, "transition"), 32, "section1")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return keras.Model(inputs, keras.layers.Dense(6, activation="softmax", name="logits")(x))


def digits_ensemble(members: int = 2) -> keras.Model:
    backbone = small_backbone(size=8, channels=1, classes=10)
    return randomized(build_ensemble(backbone, members, scheme="voting"))


def saved_run(path: Path, model: keras.Model, **trained: dict[str, Any]) -> Run:
    """A run directory of a network for the digits.

    # Arguments
        trained: of the configuration, what an untrained network hasn't.
    """
    config = RunConfig(
        kind="backbone" if len(model.outputs) == 1 else "ensemble",
        model={"name": "small"},
        dataset=DATASETS["digits"].constants(),
        seed=0,
        **{"recipe": {}, **trained},
    )
    run = create_run(path, config)
    run.save_model(model)
    return run


#: A conversion by number of members, sharing and the options of `convert_ensemble`.
SmallCase = Callable[..., "Converted"]


@dataclass(frozen=True)
class Converted:
    model: keras.Model
    path: Path
    report: ConversionReport

    def logits(self, images: np.ndarray) -> list[np.ndarray]:
        """Keras's logits of each member, from raw pixels."""
        channels = images.shape[-1]
        normalized = (images / 255 - MEAN[:channels]) / STD[:channels]
        # Not `predict`, whose tracing takes longer than what it computes.
        *logits, _ = self.model(normalized.astype(np.float32), training=False)
        return [values.numpy() for values in logits]


def converted(model: keras.Model, folder: Path, **options: Any) -> Converted:
    channels = model.inputs[0].shape[-1]
    path = folder / "ensemble.tflite"
    report = convert_ensemble(model, path, mean=MEAN[:channels], std=STD[:channels], **options)
    return Converted(model, path, report)


@functools.cache
def _small_model(members: int, sharing: str) -> keras.Model:
    return small_ensemble(members, sharing=sharing)


@pytest.fixture(scope="session")
def small_case(tmp_path_factory: pytest.TempPathFactory) -> SmallCase:
    """Conversions of `small_ensemble(members, sharing=...)`, each made once.

    Neither the model nor the file may be changed.
    """

    @functools.cache
    def case(members: int = 3, sharing: str = "fusion", **options: str) -> Converted:
        folder = tmp_path_factory.mktemp("case")
        return converted(_small_model(members, sharing), folder, **options)

    return case


def pixels(n: int, shape: tuple[int, int, int], seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def assert_members_agree(case: Converted, images: np.ndarray, least: float = 0.95) -> None:
    """Every member decides as its Keras original does, and the originals do differ."""
    keras_logits = case.logits(images)
    ours = EnsembleInterpreter(case.path).predict_logits(images)
    assert ours.shape == (len(keras_logits), len(images), keras_logits[0].shape[-1])
    for member, (expected, actual) in enumerate(zip(keras_logits, ours, strict=True)):
        agreement = (expected.argmax(-1) == actual.argmax(-1)).mean()
        assert agreement >= least, f"member {member}: {agreement}"
        # A sign that flips changes a few images' logits, never most of them.
        close = np.isclose(expected, actual, rtol=1e-3, atol=1e-3).all(axis=-1)
        assert close.mean() > 0.7, f"member {member}: {close.mean()}"
        for other in keras_logits[:member]:
            assert not np.allclose(other, expected, atol=0.1)


@pytest.fixture(scope="session")
def fusion(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """Three members of a small residual network; the shared instance must not be changed."""
    names = [f"class {i}" for i in range(7)]
    return converted(
        small_ensemble(3), tmp_path_factory.mktemp("fusion"), class_names=names, dataset="test"
    )
