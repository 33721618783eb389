"""Checks that a graph is valid, whichever passes have run.

Tests run `verify` after each pass of the pipeline. It knows the operators of BNNs. For any other
operator it checks the producers of the inputs, but no shapes and types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flatbuffers import flexbuffers

from larq_ensemble.convert.ir.graph import Graph, Module, Operator, Tensor
from larq_ensemble.convert.ir.schema import enum

_WORD = 32
Shape = tuple[int, ...]


class InvalidGraphError(ValueError):
    """A graph that can't run: the message names the operator and what is wrong with it."""


def verify(module: Module, *, no_dead_code: bool = False) -> None:
    """Checks every graph of a module.

    - Each tensor is in its graph's list once, and a constant has as many bytes as its shape asks.
    - Each operand is a constant, an input of the graph, or the output of one operator before.
    - Signatures name the graph's inputs and outputs.
    - Shapes and types fit the operator.

    # Arguments
        no_dead_code: also check that every operator's output is needed.

    # Raises
        InvalidGraphError: for the first thing that is wrong.
    """
    for number, graph in enumerate(module.graphs):
        try:
            _verify_graph(graph, no_dead_code)
        except InvalidGraphError as error:
            name = f"Graph {number}" if graph.signature is None else repr(graph.signature.key)
            raise InvalidGraphError(f"{name}: {error}") from None


def _verify_graph(graph: Graph, no_dead_code: bool) -> None:
    known = set(graph.tensors)
    _require(len(known) == len(graph.tensors), "a tensor is listed twice")
    for tensor in graph.tensors:
        _verify_constant(tensor)
    available = {*graph.inputs, *(tensor for tensor in graph.tensors if tensor.data is not None)}
    for place, op in enumerate(graph.operators):
        try:
            _verify_order(op, known, available)
            if op.name in RULES:
                RULES[op.name](op)
        except (InvalidGraphError, ValueError, IndexError, TypeError) as error:
            raise InvalidGraphError(f"operator {place}, {_described(op)}: {error}") from None
        available.update(op.outputs)
    for tensor in (*graph.inputs, *graph.outputs):
        _require(tensor in known, "an input or output is not among the tensors")
    for tensor in graph.outputs:
        _require(tensor in available, "an output of the graph has no producer")
    if graph.signature is not None:
        for named, listed in (
            (graph.signature.inputs, graph.inputs),
            (graph.signature.outputs, graph.outputs),
        ):
            _require(set(named.values()) == set(listed), "the signature names other tensors")
    if no_dead_code:
        _verify_all_needed(graph)


def _verify_constant(tensor: Tensor) -> None:
    if tensor.data is None:
        return
    try:
        tensor.values  # noqa: B018 (raises if the bytes don't fit)
    except ValueError:
        raise InvalidGraphError(
            f"a constant {tensor.dtype} {list(tensor.shape)} has {tensor.data.size} bytes"
        ) from None


def _verify_order(op: Operator, known: set[Tensor], available: set[Tensor]) -> None:
    for slot, tensor in enumerate(op.inputs):
        if tensor is None:
            continue
        _require(tensor in known, f"input {slot} is not among the graph's tensors")
        _require(tensor in available, f"input {slot} has no producer before it")
    for slot, tensor in enumerate(op.outputs):
        _require(tensor in known, f"output {slot} is not among the graph's tensors")
        _require(
            tensor not in available,
            f"output {slot} is a constant, an input, or has another producer",
        )


def _verify_all_needed(graph: Graph) -> None:
    needed = set(graph.outputs)
    for op in reversed(graph.operators):
        _require(not needed.isdisjoint(op.outputs), f"{_described(op)} is dead code")
        needed.update(op.operands)


def _described(op: Operator) -> str:
    def side(tensors: Iterable[Tensor | None]) -> str:
        return ", ".join("-" if t is None else f"{t.dtype}{list(t.shape)}" for t in tensors)

    return f"{op.name}({side(op.inputs)}) -> ({side(op.outputs)})"


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise InvalidGraphError(problem)


def _require_shape(tensor: Tensor | None, shape: Sequence[int], what: str = "the output") -> None:
    if tensor is not None:
        _require(tensor.shape == tuple(shape), f"{what} should have the shape {list(shape)}")


def _require_same_type(*tensors: Tensor) -> None:
    _require(len({tensor.dtype for tensor in tensors}) == 1, "the types should be the same")


def _broadcast(op: Operator) -> None:
    _require_same_type(*op.operands, *op.outputs)
    _require_shape(op.outputs[0], np.broadcast_shapes(*(tensor.shape for tensor in op.operands)))


def _prelu(op: Operator) -> None:
    _broadcast(op)
    _require_shape(op.outputs[0], op.operands[0].shape)


def _same_shape(op: Operator) -> None:
    _require_shape(op.outputs[0], op.operands[0].shape)


def _same_shape_and_type(op: Operator) -> None:
    _same_shape(op)
    _require_same_type(op.operands[0], op.outputs[0])


def _reshape(op: Operator) -> None:
    x, output = op.operands[0], op.outputs[0]
    _require_same_type(x, output)
    _require(x.size == output.size, f"{x.size} values can't become {output.size}")
    if len(op.operands) > 1 and op.operands[1].data is not None:
        asked = op.operands[1].values.tolist()
        fits = len(asked) == len(output.shape) and all(
            size in (-1, actual) for size, actual in zip(asked, output.shape, strict=True)
        )
        _require(fits, f"it asks for the shape {asked}")


def _bitcast(op: Operator) -> None:
    before, after = (t.size * np.dtype(t.dtype).itemsize for t in (op.operands[0], op.outputs[0]))
    _require(before == after, f"{before} bytes can't become {after}")


def _tile(op: Operator) -> None:
    x, times = op.operands
    if times.data is not None:
        _require_shape(op.outputs[0], np.multiply(x.shape, times.values).tolist())


def _gather(op: Operator) -> None:
    table, index = op.operands
    _require_same_type(table, op.outputs[0])
    _require(index.dtype in ("int32", "int64"), "the index should be an integer")
    if not op.options.batchDims:
        axis = op.options.axis
        _require_shape(op.outputs[0], (*table.shape[:axis], *index.shape, *table.shape[axis:][1:]))


def _split(op: Operator) -> None:
    x, sizes, axis = op.operands
    if sizes.data is None or axis.data is None:
        return
    along = int(axis.values) % len(x.shape)
    _require(int(sizes.values.sum()) == x.shape[along], "the parts aren't the whole")
    for output, size in zip(op.outputs, sizes.values.tolist(), strict=True):
        _require_shape(output, (*x.shape[:along], size, *x.shape[along + 1 :]), "an output")


def _reduce(op: Operator) -> None:
    x, axes = op.operands
    if axes.data is None:
        return
    reduced = {axis % len(x.shape) for axis in np.ravel(axes.values).tolist()}
    keep = bool(op.options and op.options.keepDims)
    shape = [1 if axis in reduced else size for axis, size in enumerate(x.shape)]
    kept = [size for axis, size in enumerate(shape) if keep or axis not in reduced]
    _require_shape(op.outputs[0], kept)


def _pad(op: Operator) -> None:
    x, added = op.operands[:2]
    if added.data is not None:
        _require_shape(op.outputs[0], np.add(x.shape, added.values.sum(axis=1)).tolist())


def _strided_slice(op: Operator) -> None:
    x, *bounds = op.operands
    options = op.options
    if any(tensor.data is None for tensor in bounds) or (
        options.ellipsisMask or options.newAxisMask or options.shrinkAxisMask
    ):
        return
    kept = [
        slice(
            None if options.beginMask >> axis & 1 else begin,
            None if options.endMask >> axis & 1 else end,
            step,
        )
        for axis, (begin, end, step) in enumerate(
            zip(*(tensor.values.tolist() for tensor in bounds), strict=True)
        )
    ]
    sizes = zip(kept, x.shape, strict=True)
    _require_shape(op.outputs[0], [len(range(*one.indices(size))) for one, size in sizes])


def _concatenate(op: Operator) -> None:
    axis = op.options.axis % len(op.outputs[0].shape)
    first = op.operands[0].shape
    total = sum(tensor.shape[axis] for tensor in op.operands)
    for tensor in op.operands:
        _require_shape(tensor, (*first[:axis], tensor.shape[axis], *first[axis + 1 :]), "an input")
    _require_shape(op.outputs[0], (*first[:axis], total, *first[axis + 1 :]))


def _fully_connected(op: Operator) -> None:
    x, weights, *bias = op.operands
    units, inputs = weights.shape
    _require(x.size % inputs == 0, f"the weights take {inputs} inputs")
    _require(op.outputs[0].shape[-1] == units, f"the weights give {units} outputs")
    _require(op.outputs[0].size == x.size // inputs * units, "the outputs should be as many rows")
    for tensor in bias:
        _require_shape(tensor, [units], "the bias")


def _windowed(
    shape: Shape,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    same: bool,
) -> Shape:
    """Height and width behind a convolution or a pooling of `[n, h, w, c]`."""
    extents = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    return tuple(
        -(-size // stride) if same else (size - extent) // stride + 1
        for size, extent, stride in zip(shape[1:3], extents, strides, strict=True)
    )


def _is_same(padding: int) -> bool:
    return padding == enum("Padding")["SAME"]


def _convolution(op: Operator) -> None:
    x, filters, *bias = op.operands
    output, options = op.outputs[0], op.options
    channels, *kernel, inputs = filters.shape
    if op.name == "DEPTHWISE_CONV_2D":
        channels = inputs
        _require(channels % x.shape[3] == 0, "the filters should be of the input's channels")
    else:
        _require(x.shape[3] % inputs == 0, f"the filters take {inputs} channels")
    size = _windowed(
        x.shape,
        kernel,
        (options.strideH, options.strideW),
        (options.dilationHFactor, options.dilationWFactor),
        _is_same(options.padding),
    )
    _require_shape(output, (x.shape[0], *size, channels))
    for tensor in bias:
        _require_shape(tensor, [channels], "the bias")


def _pooling(op: Operator) -> None:
    x, options = op.operands[0], op.options
    kernel, strides = (
        (options.filterHeight, options.filterWidth),
        (options.strideH, options.strideW),
    )
    size = _windowed(x.shape, kernel, strides, (1, 1), _is_same(options.padding))
    _require_shape(op.outputs[0], (x.shape[0], *size, x.shape[3]))


def _words(channels: int) -> int:
    return -(-channels // _WORD)


def _binary_convolution(op: Operator) -> None:
    x, filters, multiplier, bias, thresholds = op.inputs
    _require(x is not None and filters is not None, "input and filters can't be left out")
    assert x is not None
    assert filters is not None
    options: Any = flexbuffers.Loads(op.custom_options)
    channels, *kernel, words = filters.shape
    _require(x.dtype == filters.dtype == "int32", "input and filters should be packed, int32")
    _require(x.shape[3] == _words(options["channels_in"]), "the input should have other channels")
    _require(x.shape[3] % words == 0, f"the filters take {words} words")
    for tensor, what in ((multiplier, "the multiplier"), (bias, "the bias")):
        _require_shape(tensor, [channels], what)
    size = _windowed(
        x.shape,
        kernel,
        (options["stride_height"], options["stride_width"]),
        (options["dilation_height_factor"], options["dilation_width_factor"]),
        _is_same(options["padding"]),
    )
    output = op.outputs[0]
    is_packed = output.dtype == "int32"
    _require(is_packed == (thresholds is not None), "packed outputs need thresholds, others none")
    _require(is_packed or multiplier is not None, "float outputs need a multiplier and a bias")
    _require_shape(output, (x.shape[0], *size, _words(channels) if is_packed else channels))


def _pack(op: Operator) -> None:
    x, output = op.operands[0], op.outputs[0]
    _require(output.dtype == "int32", "the output should be packed, int32")
    _require_shape(output, (*x.shape[:-1], _words(x.shape[-1])))


def _unpack(op: Operator) -> None:
    x, output = op.operands[0], op.outputs[0]
    _require(x.dtype == "int32", "the input should be packed, int32")
    _require_shape(x, (*output.shape[:-1], _words(output.shape[-1])), "the input")


#: Operator name -> check of the operator's shapes and types.
RULES: Mapping[str, Callable[[Operator], None]] = {
    **dict.fromkeys(("ADD", "SUB", "MUL", "DIV", "MINIMUM", "MAXIMUM"), _broadcast),
    **dict.fromkeys(("RELU", "RELU6", "NEG", "LOGISTIC", "TANH", "SOFTMAX"), _same_shape_and_type),
    **dict.fromkeys(("CAST", "DEQUANTIZE", "QUANTIZE"), _same_shape),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), _convolution),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), _pooling),
    **dict.fromkeys(("MEAN", "SUM"), _reduce),
    **dict.fromkeys(("PAD", "PADV2"), _pad),
    "PRELU": _prelu,
    "RESHAPE": _reshape,
    "BITCAST": _bitcast,
    "TILE": _tile,
    "GATHER": _gather,
    "SPLIT_V": _split,
    "STRIDED_SLICE": _strided_slice,
    "CONCATENATION": _concatenate,
    "FULLY_CONNECTED": _fully_connected,
    "LceBconv2d": _binary_convolution,
    "LceQuantize": _pack,
    "LceDequantize": _unpack,
}
