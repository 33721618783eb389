"""What no output depends on goes, and all else stays in its order."""

from __future__ import annotations

from larq_ensemble.convert.passes import dead_code

from ...builder import Builder, names


def test_unread_operators_and_tensors_go() -> None:
    build = Builder()
    x, member = build.input("image", 1, 3), build.member()
    unused = build.constant([7.0])
    y = build.op("RELU", x)
    build.op("NEG", build.op("ADD", y, unused))
    first, second = build.split(build.constant([1.0, 2, 3, 4]), 3, 1)
    module = build.module(logits=build.op("MUL", y, first))
    graph = module.graph
    kept = [tensor for tensor in graph.tensors if tensor is not unused]
    assert dead_code.run(module)["dead_operators"] == 2
    assert names(graph) == ["RELU", "SPLIT_V", "MUL"]
    # An input stays, and so does the output of an operator of which another one is read.
    assert member in graph.tensors
    assert second in graph.tensors
    assert graph.tensors == [tensor for tensor in kept if tensor in graph.tensors]
    assert len(graph.tensors) == len(kept) - 2
    assert dead_code.run(module)["dead_operators"] == 0
