"""The verifier finds what is wrong with a graph, and says where."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.ir.graph import Graph, Module, Operator, Signature, Tensor
from larq_ensemble.ir.verifier import InvalidGraphError, verify

from ...builder import Builder, normal
from ..conftest import Converted


def sound() -> Module:
    """`relu(x + offset) * scale`."""
    build = Builder()
    x = build.input("image", 1, 4)
    y = build.op("RELU", build.op("ADD", x, build.constant(normal(4))))
    return build.module(logits=build.op("MUL", y, build.constant(normal(4))))


def missing_producer(graph: Graph) -> None:
    graph.erase(graph.operators[1])


def wrong_order(graph: Graph) -> None:
    op = graph.operators[0]
    graph.erase(op)
    graph.insert(op, after=graph.operators[-1])


def foreign_tensor(graph: Graph) -> None:
    graph.rewrite(graph.operators[1], inputs=[Tensor((1, 4), "float32")])


def two_producers(graph: Graph) -> None:
    first, second, _ = graph.operators
    graph.rewrite(second, outputs=first.outputs)


def constant_is_computed(graph: Graph) -> None:
    graph.operators[0].outputs[0].set_values(normal(1, 4))


def short_constant(graph: Graph) -> None:
    graph.operators[0].operands[1].data = np.zeros(12, np.uint8)


def listed_twice(graph: Graph) -> None:
    graph.tensors.append(graph.tensors[0])


def unproduced_output(graph: Graph) -> None:
    graph.outputs = [graph.add(Tensor((1, 4), "float32"))]
    assert graph.signature is not None
    graph.signature.outputs = {"logits": graph.outputs[0]}


def other_signature(graph: Graph) -> None:
    assert graph.signature is not None
    graph.signature.inputs["image"] = graph.tensors[-1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing_producer, r"operator 1, MUL\(float32\[1, 4\], .*input 0 has no producer before"),
        (wrong_order, r"operator 0, RELU.*input 0 has no producer before"),
        (foreign_tensor, "operator 1, RELU.*input 0 is not among the graph's tensors"),
        (two_producers, "operator 1, RELU.*output 0 is a constant, an input, or has another"),
        (constant_is_computed, "operator 0, ADD.*output 0 is a constant"),
        (short_constant, r"tensor 1, float32\[4\]: the constant has 12 bytes"),
        (listed_twice, "a tensor is listed twice"),
        (unproduced_output, "an output of the graph has no producer"),
        (other_signature, "the signature names other tensors"),
    ],
)
def test_structure(damage: Callable[[Graph], None], message: str) -> None:
    module = sound()
    verify(module, no_dead_code=True)
    damage(module.graph)
    with pytest.raises(InvalidGraphError, match=f"'serving_default': {message}"):
        verify(module)


def test_dead_code() -> None:
    module = sound()
    graph = module.graph
    unread = graph.add_like(graph.inputs[0])
    graph.insert(Operator("NEG", (graph.inputs[0],), (unread,)))
    verify(module)
    with pytest.raises(InvalidGraphError, match=r"NEG.*is dead code"):
        verify(module, no_dead_code=True)


def test_each_graph_is_checked() -> None:
    module = sound()
    module.graphs.append(module.graph.copy())
    second = module.graphs[1]
    second.signature = Signature("second", second.signature.inputs, second.signature.outputs)
    missing_producer(second)
    with pytest.raises(InvalidGraphError, match="'second': operator 1"):
        verify(module)


def test_another_shape_of_any_output_is_found(fusion: Converted) -> None:
    module = read(fusion.path.read_bytes())
    verify(module, no_dead_code=True)
    checked = set()
    for op in module.graphs[0].operators:
        output = op.outputs[0]
        shape, output.shape = output.shape, (*(size + 1 for size in output.shape), 2)
        with pytest.raises(InvalidGraphError, match=op.name):
            verify(module)
        output.shape = shape
        checked.add(op.name)
    verify(module)
    assert checked >= {"CONV_2D", "LceBconv2d", "LceQuantize", "GATHER", "SPLIT_V", "RESHAPE"}
