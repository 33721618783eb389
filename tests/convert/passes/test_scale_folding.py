"""Scales go into the multipliers of binary convolutions."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.convert.passes import dead_code, scale_folding
from larq_ensemble.convert.passes.sign_packing import bit_packed
from larq_ensemble.ir.graph import Module
from larq_ensemble.ir.verifier import verify

from ...builder import Builder, names, normal, of_member, run

CHANNELS = 8
SIGNS = np.random.default_rng(0).choice([-1, 1], (CHANNELS, 3, 3, 32))
POSITIVE = np.abs(normal(2, CHANNELS)) + 0.1
NEGATIVE = np.where(np.arange(CHANNELS) == 3, -1, 1) * POSITIVE


def module_of(
    scales: np.ndarray,
    *,
    prelu: bool = False,
    bias: float = 0,
    activation: int = 0,
    read_twice: bool = False,
    unknown: bool = False,
) -> Module:
    """`scale * prelu(conv(image))`."""
    build = Builder()
    image, member = build.input("image", 1, 4, 4, 32), build.member()
    bits = build.op("LceQuantize", image, shape=(1, 4, 4, 1), dtype="int32", custom=b"")
    y = convolution = build.binary_convolution(
        *(bits, build.constant(bit_packed(SIGNS), "int32")),
        *(build.constant(normal(CHANNELS)), build.constant(np.full(CHANNELS, bias))),
        channels_in=32,
    )
    if prelu:
        y = build.op("PRELU", y, build.constant(normal(CHANNELS, seed=1)))
    (scale,) = build.split(build.lookup(scales, member), CHANNELS)
    if unknown:
        scale = build.op("EXP", scale)
    y = build.op("MUL", y, scale, fusedActivationFunction=activation)
    # The output of the graph itself stays a product.
    y = build.op("RELU", y)
    more = {"more": build.op("NEG", convolution)} if read_twice else {}
    return build.module(members=2, layout="subgraphs", logits=y, **more)


def outputs(module: Module) -> list[np.ndarray]:
    image = normal(1, 4, 4, 32, seed=2)
    return [run(module, image=image, member=of_member(m))["logits"] for m in range(2)]


@pytest.mark.parametrize("bias", [0, 0.5])
@pytest.mark.parametrize(("scales", "prelu"), [(NEGATIVE, False), (POSITIVE, True)])
def test_the_convolution_scales(scales: np.ndarray, prelu: bool, bias: float) -> None:
    module = module_of(scales, prelu=prelu, bias=bias)
    expected = outputs(module)
    assert np.abs(expected[0] - expected[1]).max() > 0.1
    assert scale_folding.run(module)["folded_scales"] == 1
    dead_code.run(module)
    verify(module, no_dead_code=True)
    # What is left works on channels only.
    products = module.graph.find("MUL")
    assert [op.outputs[0].shape for op in products] == [(CHANNELS,)] * (1 + (bias != 0))
    for ours, before in zip(outputs(module), expected, strict=True):
        np.testing.assert_allclose(ours, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"scales": NEGATIVE, "prelu": True},  # of the second member too
        {"scales": np.stack([POSITIVE[0], 0 * POSITIVE[1]]), "prelu": True},
        {"scales": POSITIVE, "prelu": True, "unknown": True},
        {"scales": POSITIVE, "activation": 1},
        {"scales": POSITIVE, "read_twice": True},
    ],
)
def test_others_stay(options) -> None:
    module = module_of(**options)
    before = names(module.graph)
    assert scale_folding.run(module)["folded_scales"] == 0
    assert names(module.graph) == before


def test_products_one_behind_the_other() -> None:
    build = Builder()
    image = build.input("image", 1, 4, 4, 32)
    bits = build.op("LceQuantize", image, shape=(1, 4, 4, 1), dtype="int32", custom=b"")
    y = build.binary_convolution(
        *(bits, build.constant(bit_packed(SIGNS), "int32")),
        *(build.constant(np.ones(CHANNELS)), build.constant(np.zeros(CHANNELS))),
        channels_in=32,
    )
    for power in (2, 4):
        y = build.op("MUL", y, build.constant(np.full(CHANNELS, power)))
    module = build.module(layout="subgraphs", logits=build.op("RELU", y))
    x = normal(1, 4, 4, 32)
    before = run(module, image=x)["logits"]
    assert scale_folding.run(module)["folded_scales"] == 2
    assert names(module.graph) == ["LceQuantize", "MUL", "MUL", "LceBconv2d", "RELU"]
    assert run(module, image=x)["logits"].tobytes() == before.tobytes()
