"""What depends on constants only is computed in advance, unless it is larger."""

from __future__ import annotations

import numpy as np

from larq_ensemble.legalization import legalize

from ...builder import Builder, names


def test_a_members_values_become_constants():
    """A multiplier and a bias out of one table, as in the layouts with a graph per member."""
    build = Builder()
    multiplier, bias = build.split(build.constant([2, 3, 4, 5]), 2, 2)
    bias = build.op("ADD", bias, build.constant([10, 20]))
    x = build.input("x", 1, 2)
    module = build.module(y=build.op("ADD", build.op("MUL", x, multiplier), bias))
    assert legalize(module)["folded"] == 2
    assert names(module.graph) == ["MUL", "ADD"]
    values = [op.operands[1].values.tolist() for op in module.graph.operators]
    assert values == [[2, 3], [14, 25]]


def test_constants_that_would_grow_are_computed_by_the_graph():
    build = Builder()
    x = build.input("x", 1, 4)
    tiled = build.op("TILE", build.constant([1, 2]), build.constant([2], "int32"), shape=[4])
    small = build.constant(np.ones(4), "int8")
    module = build.module(
        y=build.op("ADD", x, tiled), z=build.op("MUL", x, build.op("CAST", small, dtype="float32"))
    )
    assert legalize(module)["folded"] == 0
    assert sorted(names(module.graph)) == ["ADD", "CAST", "MUL", "TILE"]
