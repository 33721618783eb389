"""Turns binarized convolutions that a member owns into LceBconv2d.

LceBconv2d packs its filters only once, at its first run. So the member-indexed graph looks the
filters up as bits, unpacks them and computes with floats:

    bits -> LceDequantize (-> PADV2 with ones) -> CONV_2D -> MUL by each filter's scale
                    looked-up bits -> LceDequantize -^

In the graph of one member the looked-up bits are constant, so LceBconv2d can read them:

    bits -> LceBconv2d(bits, looked-up bits, scale)

Left alone: real-valued inputs, groups, an activation that LceBconv2d lacks, a scale that depends on
the image (LceBconv2d reads it at its first run only), and zero padding around an input that is
smaller than the filter, which LCE 0.16.0 miscomputes.

Exact without a scale: sums of signs are integers, and float32 holds all of them up to 2^24. With a
scale, LCE's kernel rounds the product differently from MUL.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from flatbuffers import flexbuffers

from larq_ensemble.ir.graph import Graph, Module, Operator, Tensor, as_bytes
from larq_ensemble.ir.schema import enum, enum_names
from larq_ensemble.ir.windows import Axis

#: What LceBconv2d can compute after the sum.
_ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6")


def run(module: Module) -> Counter[str]:
    """Counts `bit_packed_convolutions`."""
    graph = module.graph
    found = list(matches(graph))
    for match in found:
        _rewrite(graph, match)
    return Counter(bit_packed_convolutions=len(found))


@dataclass(frozen=True)
class Match:
    """A convolution of signs by looked-up signs.

    # Arguments
        last: its last operator: the MUL by the filters' scale, or the CONV_2D if it has none.
        bits: the packed input.
        filters: the packed filters.
        multiplier: the filters' scale `[channels]`; `None`: 1.
        bias: zeros `[channels]`.
        options: of the LceBconv2d.
        relu_follows: whether `last` ends in a ReLU that LceBconv2d can't have.
    """

    last: Operator
    bits: Tensor
    filters: Tensor
    multiplier: Tensor | None
    bias: Tensor
    options: dict[str, int]
    relu_follows: bool


def matches(graph: Graph) -> Iterator[Match]:
    """The convolutions with looked-up filters that LceBconv2d computes right."""
    of_image = graph.of_image()
    for op in graph.find("CONV_2D"):
        match = _match(graph, op, of_image)
        if match is not None:
            yield match


def _match(graph: Graph, op: Operator, of_image: set[Tensor]) -> Match | None:
    x, filters, bias = op.operands
    padding = graph.producer(x, "PADV2")
    signs = graph.producer(padding.inputs[0] if padding else x, "LceDequantize")
    unpacked = graph.producer(filters, "LceDequantize")
    if signs is None or unpacked is None or filters in of_image:
        return None
    shape, kernel = signs.outputs[0].shape, filters.shape
    if shape[3] != kernel[3] or not bias.is_constant(0):
        return None
    strides = op.options.strideH, op.options.strideW
    dilations = op.options.dilationHFactor, op.options.dilationWFactor
    axes = Axis.both(shape, kernel, strides, dilations)
    pad_value = _pad_value(op, padding, axes)
    if pad_value is None:
        return None
    same = op.options.padding == enum("Padding")["SAME"]
    activation, relu_follows = op.activation, False
    if enum_names("ActivationFunctionType")[activation] not in _ACTIVATIONS:
        return None
    if same and activation:
        # LceBconv2d has no activation with zero padding.
        if activation != enum("ActivationFunctionType")["RELU"]:
            return None
        activation, relu_follows = 0, True
    scaling, multiplier = op, None
    if not relu_follows:
        scaling, multiplier = _scaling(graph, op, of_image)
    return Match(
        last=scaling,
        bits=signs.operands[0],
        filters=unpacked.operands[0],
        multiplier=multiplier,
        bias=bias,
        options={
            "channels_in": shape[3],
            "dilation_height_factor": dilations[0],
            "dilation_width_factor": dilations[1],
            "fused_activation_function": activation,
            "pad_values": pad_value,
            "padding": enum("Padding")["SAME"] if padding else op.options.padding,
            "stride_height": strides[0],
            "stride_width": strides[1],
        },
        relu_follows=relu_follows,
    )


def _pad_value(op: Operator, padding: Operator | None, axes: Sequence[Axis]) -> int | None:
    """The padding value of the LceBconv2d that replaces a CONV_2D; `None` if there is none.

    # Arguments
        op: the CONV_2D.
        padding: the PADV2 before it, or `None`.
    """
    same = op.options.padding == enum("Padding")["SAME"]
    if padding is None:
        # LCE 0.16.0 miscomputes zero padding around an input that is smaller than the filter.
        return 0 if not same or all(axis.size >= axis.extent for axis in axes) else None
    # LceBconv2d takes its padding from the sizes: only what "same" adds is possible.
    _, added, value = padding.operands
    expected = [(0, 0), *(axis.padding for axis in axes), (0, 0)]
    return 1 if not same and value.is_constant(1) and added.is_constant(expected) else None


def _scaling(graph: Graph, op: Operator, of_image: set[Tensor]) -> tuple[Operator, Tensor | None]:
    """The MUL by one value per channel that is the only reader of a convolution, and the values.

    # Returns
        The convolution itself and `None` if there is no such MUL.
    """
    output = op.outputs[0]
    consumers = graph.consumers(output)
    if graph.uses(output) == len(consumers) == 1 and consumers[0].name == "MUL":
        product = consumers[0]
        others = [tensor for tensor in product.operands if tensor is not output]
        if (
            len(others) == 1
            and others[0] not in of_image
            and others[0].shape == output.shape[-1:]
            and not product.activation
        ):
            return product, others[0]
    return op, None


def _rewrite(graph: Graph, match: Match) -> None:
    op, multiplier, output = match.last, match.multiplier, match.last.outputs[0]
    if multiplier is None:
        ones = as_bytes(np.ones(match.bias.shape, np.float32))
        multiplier = graph.add(dataclasses.replace(match.bias, data=ones))
    result = graph.add_like(output) if match.relu_follows else output
    graph.rewrite(
        op,
        name="LceBconv2d",
        inputs=(match.bits, match.filters, multiplier, match.bias, None),
        outputs=(result,),
        custom_options=bytes(flexbuffers.Dumps(match.options)),
    )
    if match.relu_follows:
        graph.insert(Operator("RELU", (result,), (output,)), after=op)
