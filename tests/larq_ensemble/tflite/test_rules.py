"""Each rule lets sound operators pass and says what is wrong with others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from flatbuffers import flexbuffers

from larq_ensemble.convert.targets.lce import write
from larq_ensemble.ir.graph import Module, Tensor
from larq_ensemble.ir.schema import options
from larq_ensemble.tflite.model import Operator
from larq_ensemble.tflite.reader import read_model
from larq_ensemble.tflite.rules import RULES, InvalidGraphError, UncheckedError
from larq_ensemble.tflite.verifier import graph_problems, problems

from ...builder import Builder, normal


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
    [conv, binary_conv, lambda b: hybrid(b, axis=0), lambda b: reshape(b, 2, 3, asked=[2, -1])],
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


def scaled(tensor: Tensor, *scales: float, zero_points: int = 0, axis: int = 0) -> Tensor:
    """A tensor with a quantization."""
    tensor.quantization = options(
        "QuantizationParameters",
        scale=np.array(scales, np.float32),
        zeroPoint=np.zeros(zero_points or len(scales), np.int64),
        quantizedDimension=axis,
    )
    return tensor


def window(b: Builder, name: str = "CONV_2D", **fields: int) -> Tensor:
    """A convolution or pooling of 6 x 6 pixels whose options may be wrong."""
    x = b.input("image", 1, 6, 6, 4)
    sizes = {"strideH": 1, "strideW": 1, **fields}
    if name == "CONV_2D":
        return b.op(name, x, b.constant(normal(4, 3, 3, 4)), shape=x.shape, **sizes)
    return b.op(name, x, **{"filterHeight": 2, "filterWidth": 2, **sizes})


def hybrid(b: Builder, axis: int) -> Tensor:
    """A convolution of floats with filters of integers, which have four scales."""
    filters = scaled(b.constant(np.ones((4, 3, 3, 4)), "int8"), 1, 2, 3, 4, axis=axis)
    x = b.input("image", 1, 6, 6, 4)
    return b.op("CONV_2D", x, filters, shape=x.shape, strideH=1, strideW=1)


def gather(b: Builder, **fields: int) -> Tensor:
    fields = {"axis": 0, **fields}
    return b.op("GATHER", b.constant(normal(2, 5)), b.member(), shape=(1, 5), **fields)


def custom_conv(b: Builder, drop: str = "", packed: bool = False, **changed: Any) -> Tensor:
    """A binary convolution of 4 x 4 pixels whose FlexBuffer may be wrong."""
    names = ("dilation_height_factor", "dilation_width_factor", "stride_height", "stride_width")
    values = {"channels_in": 32, "fused_activation_function": 0, "pad_values": 1, "padding": 0}
    values = {**values, **dict.fromkeys(names, 1), **changed}
    values.pop(drop, None)
    bits = b.input("image", 1, 4, 4, 1, dtype="int32")
    filters = b.constant(np.ones((32, 3, 3, 1)), "int32")
    vectors = (None, None, b.constant(np.zeros(32), "int32")) if packed else (
        b.constant(normal(32)), b.constant(normal(32)), None
    )  # fmt: skip
    return b.op(
        "LceBconv2d",
        *(bits, filters, *vectors),
        shape=(1, 4, 4, 1 if packed else 32),
        dtype="int32" if packed else "float32",
        custom=bytes(flexbuffers.Dumps(values)),
    )


def control_flow(b: Builder) -> Tensor:
    return b.op("WHILE", b.input("image", 3))


def reduced(b: Builder, axis: int) -> Tensor:
    return b.op("SUM", b.input("image", 2, 3), b.constant([axis], "int32"), shape=(2,))


def transposed(b: Builder, *order: int) -> Tensor:
    return b.op("TRANSPOSE", b.input("image", 2, 3), b.constant(order, "int32"), shape=(3, 2))


def sliced(b: Builder, start: int, stop: int, step: int, *shape: int, **masks: int) -> Tensor:
    bounds = (b.constant(values, "int32") for values in ([0, start], [2, stop]))
    steps = b.constant([1, step], "int32")
    return b.op("STRIDED_SLICE", b.input("image", 2, 9), *bounds, steps, shape=shape, **masks)


def cut_out(b: Builder, start: int, size: int) -> Tensor:
    bounds = (b.constant(values, "int32") for values in ([0, start], [2, size]))
    return b.op("SLICE", b.input("image", 2, 9), *bounds, shape=(2, 9 - start))


def integers(b: Builder, *scales: float, zero_points: int = 0) -> Tensor:
    x = scaled(b.input("image", 3, dtype="int8"), *scales, zero_points=zero_points)
    return scaled(b.op("RELU", x), 1.0)


def lookup_of(b: Builder, index: int) -> Tensor:
    table = b.constant(normal(2, 5))
    return b.op("GATHER", table, b.constant([index], "int32"), shape=(1, 5), axis=0)


@pytest.mark.parametrize(
    ("build_graph", "message"),
    [
        (lambda b: window(b, strideH=0), "no stride of 0 x 1"),
        (lambda b: window(b, strideW=-1), "no stride of 1 x -1"),
        (lambda b: window(b, dilationHFactor=0), "no dilation of 0 x 1"),
        (lambda b: window(b, padding=1), r"\[1, 4, 4, 4\]"),
        (lambda b: window(b, padding=2), "no padding 2"),
        (lambda b: window(b, padding=1, dilationWFactor=9), "the window 3 x 19 is too large"),
        (lambda b: window(b, fusedActivationFunction=9), "no kernel fuses activation 9"),
        (lambda b: window(b, "MAX_POOL_2D", filterHeight=0), "no window of 0 x 2"),
        (lambda b: window(b, "AVERAGE_POOL_2D", strideH=0), "no stride of 0 x 1"),
        (lambda b: hybrid(b, axis=3), "the filters have scales along axis 3"),
        (lambda b: gather(b, axis=2), "no axis 2 of 2"),
        (lambda b: gather(b, axis=-3), "no axis -3 of 2"),
        (lambda b: gather(b, batchDims=3), "no 3 batch dimensions"),
        (lambda b: lookup_of(b, 2), "it looks up 2 to 2 of 2 values"),
        (lambda b: lookup_of(b, -1), "it looks up -1 to -1 of 2 values"),
        (lambda b: custom_conv(b, stride_height=0), "no stride of 0 x 1"),
        (lambda b: custom_conv(b, dilation_width_factor=0), "no dilation of 1 x 0"),
        (
            lambda b: custom_conv(b, pad_values=0, dilation_width_factor=1 << 17),
            "the window is too large for padded zeros",
        ),
        (lambda b: window(b, dilationWFactor=1 << 20), "the window is too large"),
        (lambda b: custom_conv(b, channels_in=0), "no input of 0 channels"),
        (lambda b: custom_conv(b, channels_in=1 << 40), "the option channels_in is 1099511627776"),
        (lambda b: custom_conv(b, padding=3), "no padding 3"),
        (lambda b: custom_conv(b, pad_values=2), "no padding with 2"),
        (lambda b: custom_conv(b, packed=True, pad_values=0), "only float outputs without"),
        (lambda b: custom_conv(b, fused_activation_function=7), "no kernel fuses activation 7"),
        (lambda b: custom_conv(b, drop="padding"), "it lacks the options padding"),
        (lambda b: custom_conv(b, padding="SAME"), "the option 'padding' is no integer"),
        (control_flow, "no ensemble has control flow"),
        (lambda b: reduced(b, 2), "no axis 2 of 2"),
        (lambda b: transposed(b, 1, 1), r"\[1, 1\] is no order of the axes"),
        (lambda b: sliced(b, 1, 9, 0, 2, 8), "no stride of 0"),
        (lambda b: sliced(b, 1, 99, 2, 2, 8), r"\[2, 4\]"),
        (lambda b: sliced(b, 9, 0, 1, 2, shrinkAxisMask=2), "no axis 9 of 9"),
        (lambda b: cut_out(b, -1, 9), "no 9 values from -1 on"),
        (lambda b: cut_out(b, 3, 7), "no 7 values from 3 on"),
        (lambda b: integers(b), "int8 needs a scale"),
        (lambda b: integers(b, 0.0), "a scale is not a positive number"),
        (lambda b: integers(b, float("nan")), "a scale is not a positive number"),
        (lambda b: integers(b, 1.0, 2.0), "no scale for each channel"),
        (lambda b: integers(b, 1.0, 2.0, 3.0, zero_points=2), "3 scales have 2 zero points"),
        (lambda b: b.op("NEG", b.input("image", 3), b.constant(1.0)), "it takes 1 inputs"),
        (lambda b: b.op("PRELU", b.input("image", 3), None), "input 1 is left out"),
        (lambda b: b.op("RELU", b.input("image", 3, dtype="int64")), "no kernel for int64"),
        (lambda b: b.op("RELU", b.input("image", *[1] * 9)), "it has too many dimensions"),
        (lambda b: b.op("RELU", b.input("image", 1, -1)), "it has no size"),
        (lambda b: b.op("RELU", b.input("image", 1 << 20, 1 << 20)), "it is too large"),
        (lambda b: b.op("SOFTMAX", b.input("image", 3)), "it needs SoftmaxOptions"),
    ],
)  # fmt: skip
def test_what_would_crash_an_interpreter(
    build_graph: Callable[[Builder], Tensor], message: str
) -> None:
    build = Builder()
    output = build_graph(build)
    with pytest.raises(InvalidGraphError, match=message):
        build.module(logits=output)


def test_the_same_operators_without_the_fault() -> None:
    for build_graph in (
        window,
        lambda b: window(b, "MAX_POOL_2D"),
        gather,
        lambda b: lookup_of(b, 1),
        custom_conv,
        lambda b: custom_conv(b, packed=True),
        lambda b: reduced(b, -1),
        lambda b: transposed(b, 1, 0),
        lambda b: integers(b, 0.5),
        lambda b: sliced(b, 1, 99, 2, 2, 4),
        lambda b: sliced(b, -1, -99, -3, 2, 3),
        lambda b: sliced(b, 8, 0, 1, 2, shrinkAxisMask=2),
        lambda b: cut_out(b, 3, 6),
    ):
        build = Builder()
        build.module(logits=build_graph(build))


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (None, None),
        ([], None),
        ([1, -1], None),
        ([0], "no axes [0] of size 1"),
        ([1, 0], "no axes [1, 0] of size 1"),
        ([1, 3], "no axis 3 of 3"),
    ],
)
def test_the_axes_that_a_file_squeezes(axes: list[int] | None, message: str | None) -> None:
    build = Builder()
    x = build.input("image", 2, 1, 1)
    module = build.module(logits=build.op("SQUEEZE", x, shape=(2,), squeezeDims=None))
    if axes is not None:
        module.graph.operators[0].options.squeezeDims = np.array(axes, np.int32)
    found = list(map(str, problems(read_model(write(module)))))
    assert len(found) == (message is not None)
    assert message is None or message in found[0]


def test_members_are_looked_up_in_their_table() -> None:
    build = Builder()
    graph = build.module(members=2, logits=build.lookup(normal(2, 5), build.member())).graph
    assert not [*graph_problems(graph, 2)]
    (problem,) = graph_problems(graph, 3)
    assert "it looks up 0 to 2 of 2 values" in str(problem)
    (problem,) = graph_problems(graph, None)
    assert isinstance(problem, UncheckedError)
    assert "nothing bounds the index" in str(problem)


def test_values_that_were_looked_up_may_be_places_themselves() -> None:
    """As the columns of a mirrored image are."""

    def mirrored(build: Builder, *columns: list[int]) -> Module:
        order = build.lookup(columns, build.member(), "int32")
        x = build.op("GATHER", build.input("image", 1, 3), order, shape=(1, 3), axis=1)
        return build.module(members=2, logits=x)

    graph = mirrored(Builder(), [0, 1, 2], [2, 1, 0]).graph
    assert not [*graph_problems(graph, 2)]
    with pytest.raises(InvalidGraphError, match="it looks up 0 to 3 of 3 values"):
        mirrored(Builder(), [0, 1, 2], [3, 1, 0])


def test_tensors_together_must_fit() -> None:
    build = Builder()
    value = build.input("image", 1 << 14, 1 << 13)
    for _ in range(4):
        value = build.op("RELU", value)
    with pytest.raises(InvalidGraphError, match="its tensors take 2147483648 bytes"):
        build.module(logits=value)


def test_every_operator_has_a_kernel_of_that_name() -> None:
    from larq_ensemble.tflite.schema import OPERATORS

    custom = {"LceBconv2d", "LceBMaxPool2d", "LceQuantize", "LceDequantize"}
    assert RULES.keys() - custom <= set(OPERATORS)


@pytest.mark.parametrize("name", sorted(RULES))
def test_no_operator_passes_without_operands(name: str) -> None:
    with pytest.raises(InvalidGraphError, match="it takes"):
        RULES[name](Operator(name, (), (Tensor((1,), "float32"),)))
