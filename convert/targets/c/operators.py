"""What each operator becomes: the patterns of `Lowering`.

| operator | becomes |
|---|---|
| LceQuantize | a `Store` as signs |
| LceBconv2d | a `BinaryConvolution`, scaled and shifted, or compared with a `Threshold` |
| CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED | a `Convolution`; of signs by signs a binary one |
| LceBMaxPool2d, MAX_POOL_2D, AVERAGE_POOL_2D, MEAN, SUM, REDUCE_MAX | a `Pooling` |
| ADD, SUB, MUL, DIV, NEG, PRELU, RELU and its kin, LOGISTIC and others, MINIMUM | actions |
| PAD, PADV2 | the margin of a convolution, or an `Elementwise` |
| SLICE, STRIDED_SLICE, SPLIT, SPLIT_V, CONCATENATION | an `Elementwise` |
| GATHER of columns | a `Columns` |
| RESHAPE, EXPAND_DIMS, SQUEEZE, BITCAST, CAST of words, TILE of a vector, LceDequantize | nothing |

Exact but for DIV, which multiplies by the inverse, and SUM, which multiplies the mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from larq_ensemble.convert.targets.c.lowering import Lowering, Padded, Pattern, size_of
from larq_ensemble.convert.targets.c.plan import (
    Action,
    Add,
    AddMap,
    Apply,
    BinaryConvolution,
    Clamp,
    Convolution,
    Function,
    Map,
    Multiply,
    MultiplyMap,
    PRelu,
    Value,
    Window,
)
from larq_ensemble.ir.graph import Operator, Tensor
from larq_ensemble.ir.schema import enum, enum_names
from larq_ensemble.ir.windows import Axis
from larq_ensemble.legalization.weights import signs_of
from larq_ensemble.tflite.flexbuffer import read_integers


def _view(lowering: Lowering, op: Operator) -> None:
    """RESHAPE, EXPAND_DIMS, SQUEEZE, BITCAST, and CAST of packed words."""
    x, output = op.operands[0], op.outputs[0]
    if op.name == "CAST" and lowering.map(x).format != "signs":
        lowering.refuse("C source has no such operator")
    lowering.alias(output, x)


def _tile(lowering: Lowering, op: Operator) -> None:
    """TILE of a vector, for rows of several pixels."""
    x, times = op.operands
    map, (*others, _) = lowering.map(x), lowering.constant(times)
    if (map.height, map.width, map.channels) != (1, 1, x.shape[-1]) or any(n > 1 for n in others):
        lowering.refuse("C source repeats vectors only, along their numbers")
    lowering.alias(op.outputs[0], x)


def _quantize(lowering: Lowering, op: Operator) -> None:
    """LceQuantize."""
    (x,) = op.operands
    _require_float(lowering, x)
    map = lowering.map(x)
    lowering.define(
        op.outputs[0],
        map if map.format == "signs" else lowering.apply(map, [], format="signs"),
    )


def _dequantize(lowering: Lowering, op: Operator) -> None:
    """LceDequantize."""
    _require_float(lowering, op.outputs[0])
    if lowering.map(op.operands[0]).format != "signs":
        lowering.refuse("its input isn't packed")
    lowering.alias(op.outputs[0], op.operands[0])


def _sum(lowering: Lowering, op: Operator) -> None:
    """ADD and SUB."""
    first, second = op.operands
    is_minus = op.name == "SUB"
    negative = [Multiply(_scalar(lowering, -1))]
    if not (lowering.is_map(first) and lowering.is_map(second)):
        x, vector = (first, second) if lowering.is_map(first) else (second, first)
        map = lowering.map(x)
        if is_minus and x is first and lowering.takes_off_margin(map, vector):
            lowering.alias(op.outputs[0], x)
            return
        value = lowering.numbers(vector, map.channels, _purpose_after(lowering, map))
        if is_minus and x is first:
            negated = -value.data if value.by_member else -value.data[np.newaxis]
            value = lowering.vector(negated, value.purpose)
        actions = [*(negative if is_minus and x is second else []), *_added(value)]
        _change(lowering, op, map, actions)
        return
    base, other = _base_and_other(lowering, first, second)
    if not is_minus:
        actions = [AddMap(other)]
    elif base is lowering.map(first):  # base - other = -(-base + other)
        actions = [*negative, AddMap(other), *negative]
    else:
        actions = [*negative, AddMap(other)]
    _change(lowering, op, base, actions)


def _product(lowering: Lowering, op: Operator) -> None:
    """MUL, and DIV by constants."""
    first, second = op.operands
    if lowering.is_map(first) and lowering.is_map(second):
        if op.name == "DIV":
            lowering.refuse("it divides by a map")
        base, other = _base_and_other(lowering, first, second)
        _change(lowering, op, base, [MultiplyMap(other)])
        return
    if op.name == "DIV" and lowering.is_map(second):
        lowering.refuse("it divides by a map")
    map_tensor, vector = (first, second) if lowering.is_map(first) else (second, first)
    map = lowering.map(map_tensor)
    value = lowering.numbers(vector, map.channels, _purpose_after(lowering, map))
    if op.name == "DIV":
        inverse = np.float32(1) / (value.data if value.by_member else value.data[np.newaxis])
        value = lowering.vector(inverse, value.purpose)
    _change(lowering, op, map, _multiplied(value))


def _prelu(lowering: Lowering, op: Operator) -> None:
    x, slopes = op.operands
    map = lowering.map(x)
    _change(lowering, op, map, [PRelu(lowering.numbers(slopes, map.channels, "activations"))])


def _leaky_relu(lowering: Lowering, op: Operator) -> None:
    slope = lowering.vector(np.full((1, 1), op.options.alpha), "activations")
    _change(lowering, op, lowering.map(op.operands[0]), [PRelu(slope)])


def _clamp(lowering: Lowering, op: Operator) -> None:
    """RELU and its kin."""
    _change(lowering, op, lowering.map(op.operands[0]), lowering.activation(op.name))


def _bound(lowering: Lowering, op: Operator) -> None:
    """MINIMUM and MAXIMUM with one number."""
    first, second = op.operands
    x, bound = (first, second) if lowering.is_map(first) else (second, first)
    rows = lowering.rows(bound)
    if np.unique(rows).size != 1:
        lowering.refuse("it compares with more than one number")
    number = float(rows.flat[0])
    clamp = Clamp(None, number) if op.name == "MINIMUM" else Clamp(number, None)
    _change(lowering, op, lowering.map(x), [clamp])


def _negate(lowering: Lowering, op: Operator) -> None:
    _change(lowering, op, lowering.map(op.operands[0]), [Multiply(_scalar(lowering, -1))])


def _apply(lowering: Lowering, op: Operator) -> None:
    """Functions of each number."""
    _change(lowering, op, lowering.map(op.operands[0]), [Apply(_FUNCTIONS[op.name])])


def _change(lowering: Lowering, op: Operator, map: Map, actions: Sequence[Action]) -> None:
    lowering.define(op.outputs[0], lowering.apply(map, [*actions, *lowering.fused(op)]))


def _scalar(lowering: Lowering, number: float) -> Value:
    return lowering.vector(np.full((1, 1), number), "activations")


def _added(value: Value) -> list[Action]:
    return [Add(value)] if value.data.any() else []


def _multiplied(value: Value) -> list[Action]:
    return [Multiply(value)] if (value.data != 1).any() else []


def _base_and_other(lowering: Lowering, first: Tensor, second: Tensor) -> tuple[Map, Map]:
    """Two maps: that comes first whose step will go on with it, once it is fused.

    It is what a binary convolution computes, whose inputs are small, so that it can wait for the
    other; else what is computed later.
    """
    one, other = (lowering.floats(tensor) for tensor in (first, second))
    if _turn(lowering, other) > _turn(lowering, one):
        one, other = other, one
    sizes = {(1, 1), (one.height, one.width)}
    if (other.height, other.width) not in sizes or other.channels != one.channels:
        lowering.refuse(
            f"it combines maps of {one.height} x {one.width} x {one.channels} and "
            f"{other.height} x {other.width} x {other.channels}"
        )
    return one, other


def _turn(lowering: Lowering, map: Map) -> tuple[int, bool, int]:
    origin = lowering.origin(map)
    is_binary = isinstance(origin, BinaryConvolution)
    return map.height * map.width, is_binary, lowering.written_at(map)


def _purpose_after(lowering: Lowering, map: Map) -> str:
    """What a product or a sum is for, by where it is."""
    if map is lowering.image or map.channels == lowering.image.channels:
        return "image"
    is_head = any(
        isinstance(step, Convolution) and step.filters.purpose == "head" for step in lowering.steps
    )
    return "head" if is_head else "batch norm"


def _require_float(lowering: Lowering, *tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.dtype != "float32":
            lowering.refuse(f"C source has none for {tensor.dtype}")


def _windowed(
    x: Tensor,
    kernel: Sequence[int],
    strides: tuple[int, int],
    dilations: tuple[int, int] = (1, 1),
    *,
    is_same: bool,
) -> Window:
    height, width = kernel
    axes = Axis.both(x.shape, (0, height, width, 0), strides, dilations)
    top, left = (axis.padding[0] if is_same else 0 for axis in axes)
    return Window(height, width, *strides, top, left, *dilations)


def _is_same(padding: int) -> bool:
    return padding == enum("Padding")["SAME"]


def _convolution(lowering: Lowering, op: Operator) -> None:
    """CONV_2D and DEPTHWISE_CONV_2D."""
    x, kernels, *bias = op.operands
    _require_float(lowering, x, kernels)
    filters, options = lowering.rows(kernels), op.options
    groups = 1
    if op.name == "DEPTHWISE_CONV_2D":
        groups = x.shape[3]
        filters = filters.transpose(0, 4, 2, 3, 1)
    else:
        groups = x.shape[3] // filters.shape[4]
    window = _windowed(
        x,
        filters.shape[2:4],
        (options.strideH, options.strideW),
        (options.dilationHFactor, options.dilationWFactor),
        is_same=_is_same(options.padding),
    )
    actions = [*_bias(lowering, bias), *lowering.fused(op)]
    size, pad = size_of(op.outputs[0]), 0.0
    margin = lowering.padding_of(x)
    if margin is not None and not _is_same(options.padding):
        window = dataclasses.replace(window, top=margin.top, left=margin.left)
        x, pad = margin.tensor, margin.value
    output = lowering.convolve(x, filters, size, window, actions, groups=groups, pad=pad)
    lowering.define(op.outputs[0], output)


def _linear(lowering: Lowering, op: Operator) -> None:
    """FULLY_CONNECTED."""
    x, weights, *bias = op.operands
    _require_float(lowering, x, weights)
    rows = lowering.rows(weights)
    filters = rows[:, :, np.newaxis, np.newaxis, :]
    size = size_of(op.outputs[0])
    actions = [*_bias(lowering, bias, "head"), *lowering.fused(op)]
    output = lowering.convolve(x, filters, size, Window(1, 1), actions, purpose="head")
    lowering.define(op.outputs[0], output)


def _bias(lowering: Lowering, bias: Sequence[Tensor], purpose: str = "batch norm") -> list[Action]:
    return [
        action
        for tensor in bias
        for action in _added(lowering.numbers(tensor, tensor.size, purpose))
    ]


def _binary_convolution(lowering: Lowering, op: Operator) -> None:
    """LceBconv2d with float or packed output."""
    x, words, multiplier, bias, thresholds = op.inputs
    (output,) = op.outputs
    assert x is not None
    assert words is not None
    options = read_integers(op.custom_options or b"")
    channels = options["channels_in"]
    packed = lowering.rows(words)
    groups = x.shape[3] // packed.shape[4]
    filters = signs_of(packed, channels // groups)
    window = _windowed(
        x,
        filters.shape[2:4],
        (options["stride_height"], options["stride_width"]),
        (options["dilation_height_factor"], options["dilation_width_factor"]),
        is_same=_is_same(options["padding"]),
    )
    unpacked = Tensor((*x.shape[:3], channels), "float32", name=x.name)
    lowering.alias(unpacked, x)
    size = (*size_of(output)[:2], filters.shape[1])
    actions: list[Action] = []
    if thresholds is None:
        assert multiplier is not None
        assert bias is not None
        _require_float(lowering, output)
        scale = lowering.numbers(multiplier, filters.shape[1], "batch norm")
        activation = enum_names("ActivationFunctionType")[options["fused_activation_function"]]
        actions = [*lowering.activation(activation), *_multiplied(scale)]
        actions += _bias(lowering, [bias])
    map = lowering.convolve(
        unpacked, filters, size, window, actions, groups=groups, pad=options["pad_values"]
    )
    if thresholds is not None:
        # LCE sets the bit if the number of differing signs, (terms - sum) / 2, is above.
        limits = filters[0, 0].size - 2 * lowering.rows(thresholds).astype(np.int64)
        map = lowering.threshold(map, limits)
    lowering.define(output, map)


def _pooling(lowering: Lowering, op: Operator) -> None:
    """AVERAGE_POOL_2D and MAX_POOL_2D."""
    (x,), options = op.operands, op.options
    _require_float(lowering, x)
    window = _windowed(
        x,
        (options.filterHeight, options.filterWidth),
        (options.strideH, options.strideW),
        is_same=_is_same(options.padding),
    )
    kind = "max" if op.name == "MAX_POOL_2D" else "mean"
    map = lowering.shaped(x)
    if kind == "mean" or map.format == "uint8":
        map = lowering.floats(x)
    map = lowering.pool(map, size_of(op.outputs[0]), window, kind)
    actions = lowering.fused(op)
    lowering.define(op.outputs[0], lowering.apply(map, actions) if actions else map)


def _binary_pooling(lowering: Lowering, op: Operator) -> None:
    """LceBMaxPool2d."""
    (x,), (output,) = op.operands, op.outputs
    options = read_integers(op.custom_options or b"")
    window = _windowed(
        x,
        (options["filter_height"], options["filter_width"]),
        (options["stride_height"], options["stride_width"]),
        is_same=_is_same(options["padding"]),
    )
    map = lowering.map(x)
    if map.format != "signs" or (map.height, map.width) != x.shape[1:3]:
        lowering.refuse("its input has another shape than it was computed in")
    size = (*size_of(output)[:2], map.channels)
    lowering.define(output, lowering.pool(map, size, window, "max"))


def _reduction(lowering: Lowering, op: Operator) -> None:
    """MEAN, SUM and REDUCE_MAX over height and width."""
    x, axes = op.operands
    _require_float(lowering, x)
    reduced = sorted(axis % len(x.shape) for axis in lowering.constant(axes))
    if len(x.shape) != 4 or reduced != [1, 2]:
        lowering.refuse(f"C source reduces height and width only, not the axes {reduced}")
    map = lowering.shaped(x)
    kind = "max" if op.name == "REDUCE_MAX" else "mean"
    if kind == "mean" or map.format != "signs":
        map = lowering.floats(x)
    output = lowering.pool(map, (1, 1, map.channels), Window(map.height, map.width), kind)
    if op.name == "SUM":
        output = lowering.apply(output, [Multiply(_scalar(lowering, map.height * map.width))])
    lowering.define(op.outputs[0], output)


def _pad(lowering: Lowering, op: Operator) -> None:
    """PAD and PADV2."""
    x, amounts, *values = op.operands
    before, after = np.reshape(lowering.constant(amounts), (-1, 2)).T.tolist()
    value = float(lowering.rows(values[0]).flat[0]) if values else 0.0
    (output,) = op.outputs
    if any(before[1:-1]) or any(after[1:-1]):
        if len(x.shape) != 4 or before[3] or after[3]:
            lowering.refuse("it pads other axes than height and width, or all of them")
        lowering.pad(output, Padded(x, before[1], before[2], value))
    elif value:
        lowering.refuse(f"it pads channels with {value:g}")
    else:
        map = lowering.shaped(x)
        first, last = (lowering.zeros(map, sides[-1]) for sides in (before, after))
        lowering.define(output, lowering.join([*first, map, *last], output))


def _slice(lowering: Lowering, op: Operator) -> None:
    """SLICE and STRIDED_SLICE."""
    x, begin, *rest = op.operands
    starts = lowering.constant(begin)
    steps = [1] * len(starts)
    if op.name == "STRIDED_SLICE":
        options, steps = op.options, lowering.constant(rest[1])
        starts = [
            0 if options.beginMask >> axis & 1 else start + size * (start < 0)
            for axis, (start, size) in enumerate(zip(starts, x.shape, strict=True))
        ]
        if options.shrinkAxisMask or min(steps) < 1:
            lowering.refuse("it drops axes or goes backwards")
    if len(x.shape) != 4 or steps[3] != 1:
        lowering.refuse("C source cuts maps of height, width and channels only")
    map = lowering.shaped(x)
    output = lowering.elementwise(
        map,
        size_of(op.outputs[0]),
        [],
        channel=starts[3],
        top=-starts[1],
        left=-starts[2],
        stride_y=steps[1],
        stride_x=steps[2],
    )
    lowering.define(op.outputs[0], output)


def _gather(lowering: Lowering, op: Operator) -> None:
    """GATHER of columns, as of a mirrored image."""
    x, columns = op.operands
    axis, batch = (op.options.axis, op.options.batchDims) if op.options else (0, 0)
    if (len(x.shape), axis, batch, len(columns.shape)) != (4, 2, 0, 1):
        lowering.refuse("C source looks up columns of maps only")
    rows = lowering.rows(columns)
    lowering.define(op.outputs[0], lowering.pick_columns(lowering.shaped(x), rows))


def _split(lowering: Lowering, op: Operator) -> None:
    """SPLIT and SPLIT_V of channels."""
    axis, x = op.operands if op.name == "SPLIT" else (op.operands[2], op.operands[0])
    if lowering.constant(axis)[0] % len(x.shape) != len(x.shape) - 1:
        lowering.refuse("C source splits channels only")
    map, channel = lowering.shaped(x), 0
    for output in op.outputs:
        size = map.height, map.width, output.shape[-1]
        lowering.define(output, lowering.elementwise(map, size, [], channel=channel))
        channel += output.shape[-1]


def _concatenate(lowering: Lowering, op: Operator) -> None:
    """CONCATENATION of channels."""
    (output,) = op.outputs
    _require_float(lowering, output)
    if op.options.axis % len(output.shape) != len(output.shape) - 1:
        lowering.refuse("C source joins channels only")
    if not all(map(lowering.is_map, op.operands)):
        lowering.refuse("it joins a map and constants")
    maps = [lowering.shaped(tensor) for tensor in op.operands]
    lowering.define(output, lowering.join(maps, output))


_FUNCTIONS: Mapping[str, Function] = {
    "ABS": "abs",
    "LOGISTIC": "logistic",
    "ROUND": "round",
    "TANH": "tanh",
}
#: Operator -> what makes steps of it.
PATTERNS: Mapping[str, Pattern] = {
    **dict.fromkeys(("RESHAPE", "EXPAND_DIMS", "SQUEEZE", "BITCAST", "CAST"), _view),
    **dict.fromkeys(("ADD", "SUB"), _sum),
    **dict.fromkeys(("MUL", "DIV"), _product),
    **dict.fromkeys(("RELU", "RELU6", "RELU_N1_TO_1"), _clamp),
    **dict.fromkeys(("MINIMUM", "MAXIMUM"), _bound),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), _convolution),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), _pooling),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX"), _reduction),
    **dict.fromkeys(("PAD", "PADV2"), _pad),
    **dict.fromkeys(("SLICE", "STRIDED_SLICE"), _slice),
    **dict.fromkeys(_FUNCTIONS, _apply),
    **dict.fromkeys(("SPLIT", "SPLIT_V"), _split),
    "PRELU": _prelu,
    "LEAKY_RELU": _leaky_relu,
    "NEG": _negate,
    "GATHER": _gather,
    "TILE": _tile,
    "FULLY_CONNECTED": _linear,
    "CONCATENATION": _concatenate,
    "LceQuantize": _quantize,
    "LceDequantize": _dequantize,
    "LceBconv2d": _binary_convolution,
    "LceBMaxPool2d": _binary_pooling,
}
