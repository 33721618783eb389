"""The verifier finds what is wrong with a graph, and says where."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from larq_ensemble.convert.ir.flatbuffer import read
from larq_ensemble.convert.ir.graph import Graph, Module, Operator, Signature, Tensor
from larq_ensemble.convert.ir.verifier import InvalidGraphError, verify
from larq_ensemble.tflite.rules import RULES

from ..builder import Builder, normal
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


def conv(b: Builder, *, height: int = 3, biases: int = 4) -> Tensor:
    x, filters, bias = (
        b.input("image", 1, 6, 6, 3), b.constant(normal(4, 3, 3, 3)), b.constant(normal(biases))
    )  # fmt: skip
    return b.op("CONV_2D", x, filters, bias, shape=(1, height, 3, 4), strideH=2, strideW=2)


def binary_conv(b: Builder, *, biases: int = 8, channels: int = 32) -> Tensor:
    bits = b.input("image", 1, 4, 4, 1, dtype="int32")
    filters = b.constant(np.ones((8, 3, 3, 1)), "int32")
    vectors = b.constant(normal(8)), b.constant(normal(biases))
    return b.binary_convolution(bits, filters, *vectors, channels_in=channels)


def reshape(b: Builder, *shape: int, asked: Sequence[int] | None = None) -> Tensor:
    operands = [] if asked is None else [b.constant(asked, "int32")]
    return b.op("RESHAPE", b.input("image", 6), *operands, shape=shape)


def mean(b: Builder) -> Tensor:
    x, axes = b.input("image", 1, 4, 4, 3), b.constant([1, 2], "int32")
    return b.op("MEAN", x, axes, shape=(1, 4, 3))


def pad(b: Builder) -> Tensor:
    added = b.constant([[1, 2]], "int32")
    return b.op("PADV2", b.input("image", 3), added, b.constant(1.0), shape=(5,))


def concatenation(b: Builder) -> Tensor:
    x, y = b.input("image", 1, 3), b.input("other", 2, 3)
    return b.op("CONCATENATION", x, y, shape=(1, 6), axis=1)


def fully_connected(b: Builder) -> Tensor:
    x, weights = b.input("image", 2, 8), b.constant(normal(5, 7))
    return b.op("FULLY_CONNECTED", x, weights, shape=(2, 5), keepNumDims=False)


def tile(b: Builder) -> Tensor:
    return b.op("TILE", b.input("image", 6), b.constant([2], "int32"), shape=(6,))


def pack(b: Builder) -> Tensor:
    return b.op("LceQuantize", b.input("image", 1, 33), shape=(1, 1), dtype="int32", custom=b"")


def unpack(b: Builder) -> Tensor:
    words = b.input("image", 1, 1, dtype="int32")
    return b.op("LceDequantize", words, shape=(1, 33), dtype="float32", custom=b"")


@pytest.mark.parametrize(
    "build_graph",
    [conv, binary_conv, lambda b: reshape(b, 2, 3, asked=[2, -1])],
)
def test_sound_operators(build_graph: Callable[[Builder], Tensor]) -> None:
    build = Builder()
    build.module(logits=build_graph(build))


@pytest.mark.parametrize(
    ("build_graph", "message"),
    [
        (lambda b: conv(b, height=2), r"the output should have the shape \[1, 3, 3, 4\]"),
        (lambda b: conv(b, biases=5), r"the bias should have the shape \[4\]"),
        (lambda b: binary_conv(b, biases=7), r"the bias should have the shape \[8\]"),
        (lambda b: binary_conv(b, channels=40), "the input should have other channels"),
        (lambda b: b.op("ADD", b.input("image", 1, 4), b.constant(normal(3))), "broadcast"),
        (lambda b: b.op("ADD", b.input("image", 1, 4), b.constant([1], "int32")), "types"),
        (lambda b: b.op("MUL", b.constant(normal(3)), b.input("image", 2, 3)), r"\[2, 3\]"),
        (lambda b: b.op("PRELU", b.input("image", 3), b.constant(normal(2, 3))), r"\[2, 3\]"),
        (lambda b: reshape(b, 2, 4), "6 values can't become 8"),
        (lambda b: reshape(b, 2, 3, asked=[3, -1]), r"asks for the shape \[3, -1\]"),
        (lambda b: b.op("GATHER", b.constant(normal(2, 5)), b.member(), shape=(2, 5)), r"\[1, 5\]"),
        (lambda b: b.split(b.input("image", 6), 2, 3)[0], "the parts aren't the whole"),
        (lambda b: b.op("BITCAST", b.input("image", 6), shape=(12,), dtype="uint8"), "24 bytes"),
        (tile, r"\[12\]"),
        (pack, r"the output should have the shape \[1, 2\]"),
        (unpack, r"the input should have the shape \[1, 2\]"),
        (fully_connected, "the weights take 7 inputs"),
        (mean, r"\[1, 3\]"),
        (pad, r"\[6\]"),
        (concatenation, "an input should have the shape"),
    ],
)
def test_unsound_operators(build_graph: Callable[[Builder], Tensor], message: str) -> None:
    build = Builder()
    output = build_graph(build)
    with pytest.raises(InvalidGraphError, match=message):
        build.module(logits=output)


def test_unknown_operators_are_left_to_others() -> None:
    assert "CUMSUM" not in RULES
    build = Builder()
    build.module(logits=build.op("CUMSUM", build.input("image", 3), shape=(7,)))
