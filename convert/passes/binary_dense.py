"""Turns dense layers of binary weights and binary inputs into LceBconv2d.

    bits [n, words] -> LceDequantize -> FULLY_CONNECTED(weights, bias)

becomes a 1x1 convolution of one pixel,

    bits -> RESHAPE [n, 1, 1, words] -> LceBconv2d(packed weights, scale, bias) -> RESHAPE

LCE has no binary dense layer: its converter leaves the weights as floats and unpacks the inputs.

Left alone: weights that are looked up, ternary ones, and scales of inputs instead of units; a fused
activation other than RELU.

Exact without scale and bias: sums of signs are integers, which float32 holds up to 2^24. With them
LceBconv2d rounds once or twice, where FULLY_CONNECTED rounds each sum.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from flatbuffers import flexbuffers

from larq_ensemble.convert.passes.binary_weights import planes_of
from larq_ensemble.convert.passes.sign_packing import bit_packed
from larq_ensemble.ir.graph import Graph, Module, Operator, Tensor
from larq_ensemble.ir.schema import enum

#: Of a 1x1 convolution without padding.
_OPTIONS = {
    **dict.fromkeys(("dilation_height_factor", "dilation_width_factor"), 1),
    **dict.fromkeys(("stride_height", "stride_width"), 1),
    "fused_activation_function": 0,
    "pad_values": 0,
}


def run(module: Module) -> Counter[str]:
    """Counts `binary_dense_layers`."""
    graph, count = module.graph, 0
    for op in graph.find("FULLY_CONNECTED"):
        count += _rewrite(graph, op)
    return Counter(binary_dense_layers=count)


def _rewrite(graph: Graph, op: Operator) -> bool:
    """Rewrites a dense layer if it is one of signs by signs."""
    x, weights, *biases = op.operands
    relu = enum("ActivationFunctionType")["RELU"]
    inputs = graph.producer(x, "LceDequantize")
    planes = planes_of(weights)
    if inputs is None or planes is None or planes.is_ternary or op.activation not in (0, relu):
        return False
    units, channels = weights.shape
    if planes.scale.shape[1] != 1 or x.shape[-1] != channels:
        return False

    def constant(values: np.ndarray) -> Tensor:
        return graph.add(Tensor.constant(values))

    def reshaped(tensor: Tensor, output: Tensor) -> Operator:
        return Operator("RESHAPE", (tensor, constant(np.array(output.shape, np.int32))), (output,))

    bits, output = inputs.operands[0], op.outputs[0]
    filters = bit_packed(planes.signs[0])[:, np.newaxis, np.newaxis]
    scale = np.broadcast_to(planes.scale[:, 0], units).astype(np.float32)
    bias = biases[0] if biases else constant(np.zeros(units, np.float32))
    pixels = graph.add_like(bits, (bits.size // filters.shape[-1], 1, 1, filters.shape[-1]))
    sums = graph.add_like(output, (*pixels.shape[:3], units))
    result = graph.add_like(output) if op.activation else output
    options = {**_OPTIONS, "channels_in": channels, "padding": enum("Padding")["VALID"]}
    following = [
        Operator(
            "LceBconv2d",
            (pixels, constant(filters), constant(scale), bias, None),
            (sums,),
            custom_options=bytes(flexbuffers.Dumps(options)),
        ),
        reshaped(sums, result),
        *([Operator("RELU", (result,), (output,))] if op.activation else []),
    ]
    graph.rewrite(op, **vars(reshaped(bits, pixels)))
    for new in following:
        graph.insert(new, after=op)
        op = new
    return True
