"""Offsets meet, or go into biases, and the sum stays the same."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.convert.passes import dead_code, offset_merging
from larq_ensemble.convert.passes.sign_packing import bit_packed
from larq_ensemble.ir.graph import Module
from larq_ensemble.ir.verifier import verify

from ...builder import Builder, names, normal, run

MAP = (1, 4, 4, 8)


def additions_to_maps(module: Module) -> int:
    """How many sums of a map and a vector there are."""
    return sum(
        any(tensor.shape == (8,) for tensor in op.operands) and len(op.outputs[0].shape) == 4
        for op in module.graph.find("ADD")
    )


def two_offsets(*, between: str | None = None) -> Module:
    """`relu((x + o) + (y + p))`, where x + o may go through something before."""
    build = Builder()
    x, y = build.input("image", *MAP), build.input("other", *MAP)
    # Only what depends on the input `image` is a map.
    y = build.op("ADD", y, build.op("NEG", x))
    one, other = (build.constant(normal(8, seed=seed)) for seed in (1, 2))
    left, right = build.op("ADD", x, one), build.op("ADD", y, other)
    if between is not None:
        left = build.op(between, left)
    return build.module(logits=build.op("RELU", build.op("ADD", left, right)))


def test_two_offsets_are_one() -> None:
    module = two_offsets()
    inputs = {"image": normal(*MAP), "other": normal(*MAP, seed=3)}
    before = run(module, **inputs)["logits"]
    assert offset_merging.run(module) == {"merged_offsets": 1, "folded_offsets": 0}
    dead_code.run(module)
    verify(module, no_dead_code=True)
    assert additions_to_maps(module) == 1
    assert names(module.graph) == ["NEG", "ADD", "ADD", "ADD", "ADD", "RELU"]
    np.testing.assert_allclose(run(module, **inputs)["logits"], before, rtol=1e-5, atol=1e-6)


def test_an_offset_stops_before_what_is_no_sum() -> None:
    module = two_offsets(between="TANH")
    before = module.graph.operators
    assert not offset_merging.run(module)
    assert module.graph.operators == before


@pytest.mark.parametrize(("name", "size"), [("MEAN", (1, 8)), ("AVERAGE_POOL_2D", (1, 2, 2, 8))])
def test_offsets_go_through_means(name: str, size: tuple[int, ...]) -> None:
    build = Builder()
    x = build.input("image", *MAP)
    y = build.op("ADD", x, build.constant(normal(8, seed=1)))
    if name == "MEAN":
        y = build.op("MEAN", y, build.constant([1, 2], "int32"), shape=size)
    else:
        window = dict.fromkeys(("filterHeight", "filterWidth", "strideH", "strideW"), 2)
        y = build.op("AVERAGE_POOL_2D", y, shape=size, padding=1, **window)
    y = build.op("ADD", y, build.constant(normal(8, seed=2)))
    module = build.module(logits=build.op("RELU", y))
    image = normal(*MAP)
    before = run(module, image=image)["logits"]
    offset_merging.run(module)
    dead_code.run(module)
    sums = module.graph.find("ADD")
    # The vectors are added up, and their sum to what is small already.
    assert sorted(op.outputs[0].shape for op in sums) == sorted([(8,), size])
    np.testing.assert_allclose(run(module, image=image)["logits"], before, rtol=1e-5, atol=1e-6)


def test_an_offset_of_channels_stops_before_their_mean() -> None:
    build = Builder()
    x = build.input("image", 1, 4, 8)
    y = build.op("ADD", x, build.constant(normal(8, seed=1)))
    y = build.op("ADD", y, build.constant(normal(8, seed=2)))
    mean = build.op("MEAN", y, build.constant([1, 2], "int32"), shape=(1,))
    module, image = build.module(logits=build.op("RELU", mean)), normal(1, 4, 8)
    before = run(module, image=image)["logits"]
    offset_merging.run(module)
    np.testing.assert_allclose(run(module, image=image)["logits"], before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", ["subgraphs", "indexed"])
def test_an_offset_becomes_a_bias(layout: str) -> None:
    signs = np.random.default_rng(0).choice([-1, 1], (8, 3, 3, 32))
    build = Builder()
    image = build.input("image", 1, 4, 4, 32)
    bits = build.op("LceQuantize", image, shape=(1, 4, 4, 1), dtype="int32", custom=b"")
    convolution = build.binary_convolution(
        *(bits, build.constant(bit_packed(signs), "int32")),
        *(build.constant(normal(8)), build.constant(normal(8, seed=1))),
        channels_in=32,
    )
    shifted = build.op("ADD", convolution, build.constant(normal(8, seed=2)))
    module = build.module(layout=layout, logits=build.op("RELU", shifted))
    x = normal(1, 4, 4, 32)
    before = run(module, image=x)["logits"]
    counts = offset_merging.run(module)
    assert counts["folded_offsets"] == (layout == "subgraphs")
    assert additions_to_maps(module) == (layout == "indexed")
    np.testing.assert_allclose(run(module, image=x)["logits"], before, rtol=1e-4, atol=1e-4)
