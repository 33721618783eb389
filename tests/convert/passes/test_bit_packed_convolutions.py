"""Convolutions of signs by looked-up signs become LceBconv2d where it computes the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flatbuffers import flexbuffers

from larq_ensemble.convert.passes import bit_packed_convolutions, dead_code
from larq_ensemble.convert.passes.sign_packing import bit_packed
from larq_ensemble.ir.graph import Module
from larq_ensemble.ir.verifier import verify

from ...builder import Builder, names, normal, of_member, run

MEMBERS, CHANNELS, FILTERS = 2, 40, 8
SIGNS = np.random.default_rng(0).choice([-1, 1], (MEMBERS, FILTERS, 3, 3, CHANNELS))
SCALES = normal(MEMBERS, FILTERS)
SAME, VALID = 0, 1
RELU, RELU6 = 1, 3


def module_of(
    *,
    size: int = 5,
    padding: int = VALID,
    ones: bool = False,
    stride: int = 1,
    activation: int = 0,
    scaled: bool = True,
    real_valued: bool = False,
    bias: float = 0,
    scale_of_image: bool = False,
) -> Module:
    """A convolution as LCE's converter and `sign_packing` leave it."""
    build = Builder()
    image, member = build.input("image", 1, size, size, CHANNELS), build.member()
    x = image
    if not real_valued:
        bits = build.op("LceQuantize", image, shape=(1, size, size, 2), dtype="int32", custom=b"")
        x = build.op("LceDequantize", bits, shape=image.shape, dtype="float32", custom=b"")
    if ones:
        total = max((-(-size // stride) - 1) * stride + 3 - size, 0)
        sides = [total // 2, total - total // 2]
        added = build.constant([[0, 0], sides, sides, [0, 0]], "int32")
        padded = (1, size + total, size + total, CHANNELS)
        x = build.op("PADV2", x, added, build.constant(1.0), shape=padded)
    words = build.lookup(bit_packed(SIGNS), member, "int32")
    filters = build.op("LceDequantize", words, shape=SIGNS.shape[1:], dtype="float32", custom=b"")
    out = -(-size // stride) if padding == SAME or ones else (size - 3) // stride + 1
    y = build.op(
        "CONV_2D",
        *(x, filters, build.constant(np.full(FILTERS, bias))),
        shape=(1, out, out, FILTERS),
        padding=padding,
        strideH=stride,
        strideW=stride,
        fusedActivationFunction=activation,
    )
    if scaled:
        scale = build.lookup(SCALES, member)
        if scale_of_image:
            corner = build.op("RESHAPE", image, build.constant([-1], "int32"),
                              shape=[image.size])  # fmt: skip
            scale, _ = build.split(corner, FILTERS, image.size - FILTERS)
        y = build.op("MUL", y, scale)
    return build.module(members=MEMBERS, layout="subgraphs", logits=y)


def outputs(module: Module, size: int) -> list[np.ndarray]:
    image = normal(1, size, size, CHANNELS, seed=1)
    # A new interpreter for each member: LceBconv2d packs its filters at the first run.
    return [run(module, image=image, member=of_member(m))["logits"] for m in range(MEMBERS)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": SAME},
        {"padding": SAME, "stride": 2, "size": 6},
        {"ones": True},
        {"ones": True, "stride": 2, "size": 6},
        {"scaled": False},
        {"activation": RELU},
        {"activation": RELU, "padding": SAME},
        {"scale_of_image": True},
    ],
    ids=str,
)
def test_it_computes_the_same(options: dict[str, Any]) -> None:
    size = options.get("size", 5)
    module = module_of(**options)
    expected = outputs(module, size)
    assert bit_packed_convolutions.run(module)["bit_packed_convolutions"] == 1
    dead_code.run(module)
    verify(module, no_dead_code=True)
    left = names(module.graph)
    assert not {"CONV_2D", "LceDequantize", "PADV2"} & set(left)
    # Zero padding leaves no room for a ReLU, and a scale of the image none for a multiplier.
    follows = "scale_of_image" in options or (options.get("activation") and "padding" in options)
    assert ("MUL" in left) == bool(follows)
    assert ("RELU" in left) == (options == {"activation": RELU, "padding": SAME})
    for ours, before in zip(outputs(module, size), expected, strict=True):
        if {"scaled", "scale_of_image"} & options.keys():  # whole numbers
            np.testing.assert_array_equal(ours, before)
        np.testing.assert_allclose(ours, before, rtol=1e-4, atol=1e-4)


def test_by_numpy() -> None:
    module = module_of()
    bit_packed_convolutions.run(module)
    dead_code.run(module)
    (op,) = module.graph.find("LceBconv2d")
    options = flexbuffers.Loads(op.custom_options)
    assert (options["channels_in"], options["padding"], options["stride_width"]) == (40, VALID, 1)
    x = np.where(normal(1, 5, 5, CHANNELS, seed=1)[0] < 0, -1, 1)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(0, 1))
    for member, ours in enumerate(outputs(module, 5)):
        expected = np.einsum("xychw,fhwc->xyf", windows, SIGNS[member])
        np.testing.assert_allclose(ours[0], expected * SCALES[member], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"real_valued": True},
        {"padding": SAME, "size": 2},  # a map smaller than the filter
        {"padding": SAME, "activation": RELU6},
        {"ones": True, "padding": SAME},  # padded twice
        {"bias": 1},
    ],
    ids=str,
)
def test_others_stay(options: dict[str, Any]) -> None:
    size = options.get("size", 5)
    if options.get("ones"):  # the map that is padded once more keeps its size
        module = module_of(padding=VALID, ones=True)
        (op,) = module.graph.find("CONV_2D")
        op.options.padding = SAME
        op.outputs[0].shape = module.graph.outputs[0].shape = (1, 7, 7, FILTERS)
    else:
        module = module_of(**options)
    before = names(module.graph)
    assert bit_packed_convolutions.run(module)["bit_packed_convolutions"] == 0
    assert names(module.graph) == before
    assert len(outputs(module, size)) == MEMBERS
