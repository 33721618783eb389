"""What is computed twice from the same is computed once."""

from __future__ import annotations

import numpy as np

from larq_ensemble.convert.passes import common_operators
from larq_ensemble.ir.verifier import verify

from ...builder import Builder, names, normal, run


def test_equal_operators_on_equal_constants() -> None:
    build, values = Builder(), normal(4)
    x = build.input("image", 1, 4)
    for _ in range(2):
        doubled = build.op("NEG", build.op("RELU", build.constant(values)))
        x = build.op("ADD", x, doubled)
    module = build.module(logits=x)
    image = normal(1, 4, seed=1)
    before = run(module, image=image)["logits"]
    assert common_operators.run(module)["common_operators"] == 2
    verify(module, no_dead_code=True)
    assert names(module.graph) == ["RELU", "NEG", "ADD", "ADD"]
    assert sum(tensor.data is not None for tensor in module.graph.tensors) == 1
    assert run(module, image=image)["logits"].tobytes() == before.tobytes()


def test_operators_that_differ_stay() -> None:
    """By an option, by the order of their inputs, by a constant's shape."""
    build = Builder()
    x, y = build.input("image", 1, 2), build.constant([[1.0, 2.0]])
    z = build.constant([1.0, 2.0])
    values = [
        build.op("SUB", x, y), build.op("SUB", y, x), build.op("SUB", x, z),
        build.op("SUB", x, y, fusedActivationFunction=1),
    ]  # fmt: skip
    module = build.module(**{f"logits_{n}": value for n, value in enumerate(values)})
    assert common_operators.run(module)["common_operators"] == 0
    assert names(module.graph) == ["SUB"] * 4


def test_equal_outputs_of_the_graph_stay() -> None:
    build = Builder()
    x = build.input("image", 1, 2)
    module = build.module(a=build.op("NEG", x), b=build.op("NEG", x))
    common_operators.run(module)
    verify(module)
    outputs = run(module, image=np.ones((1, 2), np.float32))
    np.testing.assert_array_equal(outputs["a"], outputs["b"])
