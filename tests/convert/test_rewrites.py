"""Each pass that saves instructions applies where it can, and members decide as before."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from larq_ensemble.convert import pipeline
from larq_ensemble.convert.inspection import inspect_file
from larq_ensemble.convert.passes import long_rows
from larq_ensemble.ensembles.building import build_ensemble
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.keras import keras, lq
from larq_ensemble.layers import RPReLU, RSign
from larq_ensemble.models import build_model
from larq_ensemble.runtime import EnsembleInterpreter

from .conftest import (
    Converted,
    assert_members_agree,
    converted,
    pixels,
    randomized,
    small_backbone,
)


def applied(case: Converted) -> dict[str, int]:
    return inspect_file(case.path).metadata.get("rewrites", {})


@functools.cache
def ensemble_of_widths(widths: tuple[int, ...]) -> keras.Model:
    return randomized(build_ensemble(small_backbone(24, widths), 2))


@pytest.mark.parametrize("layout", ["indexed", "subgraphs", "branches"])
@pytest.mark.parametrize("widths", [(8, 16), (16, 24), (5, 32)])
def test_long_rows_change_no_bit(
    widths: tuple[int, ...], layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ensemble_of_widths(widths)
    images = pixels(10, (24, 24, 3))
    case = converted(model, tmp_path, layout=layout)
    count = applied(case)
    assert count["long_rows"] > 0
    assert count["strided_slices"] == 1
    # The signs of 5 channels don't fill an integer.
    assert (widths[0] in (8, 16)) == ("narrow_signs" in count)
    ours = EnsembleInterpreter(case.path).predict_logits(images)
    without = tuple(step for step in pipeline.PIPELINE if step.run is not long_rows.run)
    assert len(without) == len(pipeline.PIPELINE) - 1
    monkeypatch.setattr(pipeline, "PIPELINE", without)
    plain = converted(model, tmp_path, layout=layout)
    assert "long_rows" not in applied(plain)
    assert EnsembleInterpreter(plain.path).predict_logits(images).tobytes() == ours.tobytes()


def test_small_maps_keep_their_rows(tmp_path: Path) -> None:
    case = converted(randomized(build_ensemble(small_backbone(size=8), 2)), tmp_path)
    assert not {"long_rows", "narrow_signs"} & applied(case).keys()
    assert not {"TILE", "BITCAST"} & inspect_file(case.path).ops.keys()


def network(*layers: Any, size: int = 8, filters: int = 32) -> keras.Model:
    """Stem, what the functions in `layers` make of it one after the other, linear layer."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(filters, 3, padding="same", name="stem")(inputs)
    for layer in layers:
        x = layer(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(5, name="logits")(x))


def binary(name: str, pad_values: int = 0, **options: Any) -> Any:
    return lq.layers.QuantConv2D(
        32,
        3,
        padding="same",
        pad_values=pad_values,
        input_quantizer="ste_sign",
        kernel_quantizer="magnitude_aware_sign",
        name=name,
        **options,
    )


def norm(name: str) -> keras.layers.Layer:
    return keras.layers.BatchNormalization(name=name)


def ops_on_maps(case: Converted) -> list[str]:
    """The operators of a member's graph that make maps."""
    graph = read(case.path.read_bytes()).graphs[0]
    return [op.name for op in graph.operators if len(op.outputs[0].shape) == 4]


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("pad_values", [0, 1])
def test_norm_behind_a_binary_convolution(use_bias: bool, pad_values: int, tmp_path: Path) -> None:
    """Where a member's values are constants it is the convolution's multiplier and bias."""
    backbone = network(norm("n"), binary("a", pad_values, use_bias=use_bias), norm("out"))
    model = randomized(build_ensemble(backbone, 3))
    for member in range(3):  # so that the norm before the sign needs no product
        gamma = model.get_layer(f"member_{member}_n").gamma
        gamma.assign(np.abs(gamma.numpy()))
    images = pixels(40, (8, 8, 3))
    indexed = converted(model, tmp_path / "indexed")
    assert_members_agree(indexed, images)
    assert "folded_scales" not in applied(indexed)
    for layout in ("subgraphs", "branches"):
        case = converted(model, tmp_path / layout, layout=layout)
        assert_members_agree(case, images)
        assert applied(case)["folded_scales"] == applied(case)["folded_offsets"] == 1
        # What is left: the image's normalization.
        assert ops_on_maps(case).count("MUL") == 1
        assert inspect_file(case.path).binary_filter_copies == 1


@pytest.mark.parametrize("sign", [1, -1])
def test_scale_behind_a_prelu(sign: int, tmp_path: Path) -> None:
    """`s prelu(y) = prelu(s y)` for positive s only, of all members."""
    prelu = keras.layers.PReLU(shared_axes=[1, 2, 3], name="prelu")
    model = randomized(build_ensemble(network(binary("a"), prelu, norm("out")), 2))
    gamma = model.get_layer("member_1_out").gamma
    gamma.assign(np.abs(gamma.numpy()) * np.where(np.arange(32) == 7, sign, 1))
    zero = model.get_layer("member_0_out").gamma
    zero.assign(np.abs(zero.numpy()))
    case = converted(model, tmp_path, layout="subgraphs")
    assert_members_agree(case, pixels(40, (8, 8, 3)))
    assert applied(case).get("folded_scales", 0) == (sign > 0)


def rsign_rprelu_block(x: Any, name: str, strides: int = 1) -> Any:
    shortcut = x
    x = RSign(name=f"{name}_rsign")(x)
    x = lq.layers.QuantConv2D(
        32, 3, strides=strides, padding="same", kernel_quantizer="ste_sign", name=f"{name}_conv"
    )(x)
    x = norm(f"{name}_bn")(x)
    if strides > 1:
        shortcut = keras.layers.AveragePooling2D(strides, padding="same", name=f"{name}_pool")(
            shortcut
        )
    return RPReLU(name=f"{name}_rprelu")(x + shortcut)


@pytest.mark.parametrize("layout", ["indexed", "subgraphs", "branches"])
def test_offsets_meet(layout: str, tmp_path: Path) -> None:
    """ReActNet's offsets: around shortcuts, through pooling, and all read more than once."""
    backbone = network(
        norm("n"),
        lambda x: rsign_rprelu_block(x, "a"),
        lambda x: rsign_rprelu_block(x, "b", strides=2),
        lambda x: rsign_rprelu_block(x, "c"),
        size=9,
    )
    model = randomized(build_ensemble(backbone, 2))
    draw = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, (RSign, RPReLU)):
            layer.set_weights([draw.normal(0, 0.7, weight.shape) for weight in layer.get_weights()])
    case = converted(model, tmp_path, layout=layout)
    assert_members_agree(case, pixels(60, (9, 9, 3)))
    count = applied(case)
    if layout == "indexed":
        assert count["merged_offsets"] >= 3
    else:
        assert count["folded_scales"] == 3
        ops = ops_on_maps(case)
        # Of three blocks: an offset before each sign, the shortcut, and one behind the last.
        assert ops.count("ADD") <= (3 + 3 + 1) * (2 if layout == "branches" else 1) + 1


def test_deployment_network(tmp_path: Path) -> None:
    """Widths of 32, one-padding, positive scales: all norms before signs are comparisons."""
    backbone = build_model("deploynet9", input_shape=(16, 16, 3), classes=5, width=0.5)
    model = randomized(build_ensemble(backbone, 2))
    for layer in model.layers:
        gamma = getattr(layer, "gamma", None)
        if gamma is not None and gamma.constraint is not None:
            gamma.assign(gamma.constraint(gamma))
    for layout in ("indexed", "subgraphs", "branches"):
        case = converted(model, tmp_path / layout, layout=layout)
        assert_members_agree(case, pixels(30, (16, 16, 3)))
        assert applied(case)["threshold_norms"] == 7
        assert "threshold_prelus" not in applied(case)
