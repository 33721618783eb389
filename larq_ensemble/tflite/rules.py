"""What each operator asks of its inputs, outputs and options.

TFLite's kernels check some of this themselves. The rules check everything that a kernel relies on:
shapes, types, quantization, strides that aren't 0, axes in range, enumerations that it knows.

# References
    - [TFLite's kernels](https://github.com/tensorflow/tensorflow/tree/master/tensorflow/lite/kernels)
    - [LCE's kernels](https://github.com/larq/compute-engine/tree/main/larq_compute_engine/tflite/kernels)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from larq_ensemble.console.wording import counted
from larq_ensemble.tflite.flexbuffer import read_integers
from larq_ensemble.tflite.model import Operator, Tensor

Shape = tuple[int, ...]

#: Bits of a value by type, of the types that ensembles have. Two int4 share a byte.
BITS: Mapping[str, int] = {
    "int4": 4,
    **{name: np.dtype(name).itemsize * 8 for name in ("bool", "float16", "float32", "float64")},
    **{f"{sign}int{bits}": bits for sign in ("", "u") for bits in (8, 16, 32, 64)},
}

_WORD = 32
_SAME, _VALID = 0, 1
#: Fused activations that kernels know: none, RELU, RELU_N1_TO_1, RELU6.
_ACTIVATIONS = range(4)
#: Types whose values stand for others by a scale, in kernels that compute with them.
_QUANTIZED = frozenset({"int8", "uint8", "int16"})
_REAL = frozenset({"float32"})
_NUMBERS = frozenset({"float32", "int32", "int64"}) | _QUANTIZED
#: Only convolutions have a kernel for int4, of their filters.
_ANY = frozenset(BITS) - {"int4"}
#: The most values in a window with its dilation. LCE's kernel computes as many sums for each
#: filter before the first run if zeros are padded.
_WINDOW_LIMIT = 1 << 20
#: Such sums of all filters.
_SUMS_LIMIT = 1 << 24
#: Kernels that broadcast go through so many dimensions.
_BROADCAST_RANK = 5


def bytes_of(tensor: Tensor) -> int:
    """How many bytes the values of a tensor take."""
    return -(-tensor.size * BITS.get(tensor.dtype, 8) // 8)


class InvalidGraphError(ValueError):
    """A graph that can't run: the message names the operator and what is wrong with it."""


class UncheckedError(InvalidGraphError):
    """A graph of which the verifier can't tell whether it can run."""


@dataclass(frozen=True)
class Rule:
    """What an operator asks.

    # Arguments
        check: raises `InvalidGraphError` for shapes, types or options that don't fit.
        inputs: the numbers of inputs that it may have.
        outputs: the number of outputs; `None`: any, but one at least.
        optional: the inputs that may be left out.
        options: the table of options without which the kernel doesn't work, or `None`.
        types: of the inputs and outputs, if `check` doesn't look at them.
    """

    check: Callable[[Operator], None]
    inputs: Sequence[int] = (1,)
    outputs: int | None = 1
    optional: Iterable[int] = ()
    options: str | None = None
    types: frozenset[str] = _ANY

    def __call__(self, op: Operator) -> None:
        """Checks an operator whose tensors have been checked.

        # Raises
            InvalidGraphError: if something doesn't fit.
        """
        require(
            len(op.inputs) in self.inputs,
            f"it takes {' or '.join(map(str, self.inputs))} inputs",
        )
        count = 1 if self.outputs is None else self.outputs
        require(
            len(op.outputs) == count or (self.outputs is None and len(op.outputs) > count),
            f"it has {counted(count, 'output')}",
        )
        for slot, tensor in enumerate(op.inputs):
            require(tensor is not None or slot in self.optional, f"input {slot} is left out")
        if self.options is not None:
            require(type(op.options).__name__ == f"{self.options}T", f"it needs {self.options}")
        require(op.activation in _ACTIVATIONS, f"no kernel fuses activation {op.activation}")
        for tensor in (*op.operands, *op.outputs):
            require(tensor.dtype in self.types, f"no kernel for {tensor.dtype}")
        self.check(op)


def require(condition: bool, problem: str) -> None:
    """Raises `InvalidGraphError` unless a condition holds."""
    if not condition:
        raise InvalidGraphError(problem)


def _require_shape(tensor: Tensor | None, shape: Sequence[int], what: str = "the output") -> None:
    if tensor is not None:
        require(tensor.shape == tuple(shape), f"{what} should have the shape {list(shape)}")


def _require_same_type(*tensors: Tensor) -> None:
    require(len({tensor.dtype for tensor in tensors}) == 1, "the types should be the same")


def _require_scales(*tensors: Tensor) -> None:
    """Kernels divide by the scales of integers that stand for real numbers."""
    for tensor in tensors:
        if tensor.dtype in _QUANTIZED | {"int4"}:
            scale = getattr(tensor.quantization, "scale", None)
            require(scale is not None and len(scale) > 0, f"{tensor.dtype} needs a scale")


def _require_rank(tensor: Tensor, rank: int, what: str) -> None:
    require(len(tensor.shape) == rank, f"{what} should have {rank} dimensions")


def _values(tensor: Tensor, what: str) -> list[int]:
    """The values of a parameter, which has to be a constant."""
    if tensor.data is None:
        raise UncheckedError(f"{what} is not a constant")
    require(tensor.dtype in ("int32", "int64"), f"{what} should be integers")
    return np.ravel(tensor.values).tolist()


def _axis(axis: int, rank: int) -> int:
    require(-rank <= axis < rank, f"no axis {axis} of {rank}")
    return axis % rank


def _broadcast(op: Operator) -> None:
    _require_same_type(*op.operands, *op.outputs)
    _require_scales(*op.operands, *op.outputs)
    _require_broadcast(op)


def _require_broadcast(op: Operator) -> None:
    shapes = [tensor.shape for tensor in op.operands]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise InvalidGraphError(f"{shapes} can't be broadcast together") from None
    is_broadcast = len(set(shapes)) > 1
    require(not is_broadcast or len(shape) <= _BROADCAST_RANK, "too many dimensions to broadcast")
    _require_shape(op.outputs[0], shape)


def _compare(op: Operator) -> None:
    _require_same_type(*op.operands)
    _require_scales(*op.operands)
    _require_broadcast(op)
    require(op.outputs[0].dtype == "bool", "the output should be bool")


def _prelu(op: Operator) -> None:
    _broadcast(op)
    require(len(op.outputs[0].shape) <= 4, "too many dimensions to broadcast")
    _require_shape(op.outputs[0], op.operands[0].shape)


def _same_shape(op: Operator) -> None:
    _require_shape(op.outputs[0], op.operands[0].shape)


def _same_shape_and_type(op: Operator) -> None:
    _same_shape(op)
    _require_same_type(op.operands[0], op.outputs[0])
    _require_scales(op.operands[0], op.outputs[0])


def _softmax(op: Operator) -> None:
    _same_shape(op)
    require(len(op.operands[0].shape) >= 1, "the input should have a dimension")
    _require_scales(op.operands[0], op.outputs[0])


def _quantize(op: Operator) -> None:
    _same_shape(op)
    require(op.outputs[0].dtype in _QUANTIZED, "the output should be quantized")
    _require_scales(op.operands[0], op.outputs[0])


def _dequantize(op: Operator) -> None:
    _same_shape(op)
    require(op.outputs[0].dtype == "float32", "the output should be float32")
    require(op.operands[0].dtype in _QUANTIZED | {"float16"}, "the input is not quantized")
    _require_scales(op.operands[0])


def _reshape(op: Operator) -> None:
    x, output = op.operands[0], op.outputs[0]
    _require_same_type(x, output)
    require(x.size == output.size, f"{x.size} values can't become {output.size}")
    asked = getattr(op.options, "newShape", None)
    if len(op.operands) > 1:
        asked = _values(op.operands[1], "the shape")
    require(asked is not None, "it needs a shape")
    asked = list(map(int, asked))  # type: ignore[arg-type]
    fits = len(asked) == len(output.shape) and all(
        size in (-1, actual) for size, actual in zip(asked, output.shape, strict=True)
    )
    require(fits and asked.count(-1) <= 1, f"it asks for the shape {asked}")


def _same_values(op: Operator) -> None:
    """EXPAND_DIMS and SQUEEZE."""
    x, output = op.operands[0], op.outputs[0]
    _require_same_type(x, output)
    before, after = ([size for size in t.shape if size != 1] for t in (x, output))
    require(before == after, f"{list(x.shape)} can't become {list(output.shape)}")
    longer = op.name == "EXPAND_DIMS"
    rank = max(len(x.shape), len(output.shape))
    if longer:
        require(len(output.shape) == len(x.shape) + 1, "the output should have one more dimension")
        (axis,) = _values(op.operands[1], "the axis")
        require(output.shape[_axis(axis, rank)] == 1, f"no new axis {axis}")
    else:
        asked = () if op.options.squeezeDims is None else op.options.squeezeDims
        axes = [_axis(int(axis), len(x.shape)) for axis in asked]
        require(all(x.shape[axis] == 1 for axis in axes), f"no axes {axes} of size 1")


def _bitcast(op: Operator) -> None:
    x, output = op.operands[0], op.outputs[0]
    bits, other = BITS[x.dtype], BITS[output.dtype]
    before, after = x.size * bits // 8, output.size * other // 8
    require(before == after, f"{before} bytes can't become {after}")
    if bits > other:
        _require_shape(output, (*x.shape, bits // other))
    elif bits < other:
        _require_shape(x, (*output.shape, other // bits), "the input")
    else:
        _same_shape(op)


def _tile(op: Operator) -> None:
    x, times = op.operands
    _require_same_type(x, op.outputs[0])
    counts = _values(times, "the number of copies")
    require(len(counts) == len(x.shape) and min(counts, default=1) > 0, "no copies of each axis")
    _require_shape(
        op.outputs[0], [size * count for size, count in zip(x.shape, counts, strict=True)]
    )


def _gather(op: Operator) -> None:
    table, index = op.operands
    _require_same_type(table, op.outputs[0])
    require(index.dtype in ("int32", "int64"), "the index should be an integer")
    axis, batch = _axis(op.options.axis, len(table.shape)), op.options.batchDims
    require(0 <= batch <= min(axis, len(index.shape)), f"no {batch} batch dimensions")
    if batch:
        raise UncheckedError("batch dimensions are not checked")
    _require_shape(op.outputs[0], (*table.shape[:axis], *index.shape, *table.shape[axis:][1:]))


def _split(op: Operator) -> None:
    x, sizes, axis = op.operands
    _require_same_type(x, *op.outputs)
    parts, axes = _values(sizes, "the sizes"), _values(axis, "the axis")
    require(len(axes) == 1, "it needs one axis")
    along = _axis(axes[0], len(x.shape))
    require(len(parts) == len(op.outputs) == op.options.numSplits, "no output for each part")
    require(min(parts) >= 0 and sum(parts) == x.shape[along], "the parts aren't the whole")
    for output, size in zip(op.outputs, parts, strict=True):
        _require_shape(output, (*x.shape[:along], size, *x.shape[along + 1 :]), "an output")


def _reduce(op: Operator) -> None:
    x, axes = op.operands
    _require_same_type(x, op.outputs[0])
    _require_scales(x, op.outputs[0])
    reduced = {_axis(axis, len(x.shape)) for axis in _values(axes, "the axes")}
    keep = bool(op.options and op.options.keepDims)
    shape = [1 if axis in reduced else size for axis, size in enumerate(x.shape)]
    kept = [size for axis, size in enumerate(shape) if keep or axis not in reduced]
    _require_shape(op.outputs[0], kept)


def _transpose(op: Operator) -> None:
    x, order = op.operands
    _require_same_type(x, op.outputs[0])
    axes = _values(order, "the order")
    require(sorted(axes) == [*range(len(x.shape))], f"{axes} is no order of the axes")
    require(len(axes) <= 6, "too many dimensions")
    _require_shape(op.outputs[0], [x.shape[axis] for axis in axes])


def _strided_slice(op: Operator) -> None:
    x, *bounds = op.operands
    options, rank = op.options, len(op.operands[0].shape)
    _require_same_type(x, op.outputs[0])
    if options.ellipsisMask or options.newAxisMask or options.offset:
        raise UncheckedError("added axes and offsets are not checked")
    starts, stops, steps = (_values(tensor, "a bound") for tensor in bounds)
    require(len(starts) == len(stops) == len(steps) == rank, "it needs bounds for each axis")
    require(0 not in steps, "no stride of 0")
    shape = []
    for axis, size in enumerate(x.shape):
        start = None if options.beginMask >> axis & 1 else starts[axis]
        stop = None if options.endMask >> axis & 1 else stops[axis]
        if options.shrinkAxisMask >> axis & 1:
            _axis(starts[axis], size)
        else:
            shape.append(len(range(*slice(start, stop, steps[axis]).indices(size))))
    _require_shape(op.outputs[0], shape)


def _slice(op: Operator) -> None:
    x, begin, size = op.operands
    _require_same_type(x, op.outputs[0])
    starts, sizes = _values(begin, "the begin"), _values(size, "the size")
    require(len(starts) == len(sizes) == len(x.shape) <= 5, "it needs bounds for each axis")
    shape = []
    for start, count, whole in zip(starts, sizes, x.shape, strict=True):
        count = whole - start if count == -1 else count
        require(start >= 0 and 0 < count <= whole - start, f"no {count} values from {start} on")
        shape.append(count)
    _require_shape(op.outputs[0], shape)


def _pad(op: Operator) -> None:
    x, added, *value = op.operands
    _require_same_type(x, op.outputs[0], *value)
    _require_scales(x, op.outputs[0])
    amounts = _values(added, "the padding")
    _require_shape(added, [len(x.shape), 2], "the padding")
    require(len(x.shape) <= _BROADCAST_RANK and min(amounts, default=0) >= 0, "no such padding")
    for tensor in value:
        require(tensor.size == 1, "the padded value should be one")
    sides = zip(x.shape, amounts[::2], amounts[1::2], strict=True)
    _require_shape(op.outputs[0], [sum(parts) for parts in sides])


def _concatenate(op: Operator) -> None:
    _require_same_type(*op.operands, *op.outputs)
    require(op.activation == 0, "it fuses no activation")
    axis = _axis(op.options.axis, len(op.outputs[0].shape))
    first = op.operands[0].shape
    for tensor in op.operands:
        _require_rank(tensor, len(op.outputs[0].shape), "an input")
    total = sum(tensor.shape[axis] for tensor in op.operands)
    for tensor in op.operands:
        _require_shape(tensor, (*first[:axis], tensor.shape[axis], *first[axis + 1 :]), "an input")
    _require_shape(op.outputs[0], (*first[:axis], total, *first[axis + 1 :]))


#: Types of input, filters and output, of kernels that multiply matrices.
_MATRIX_TYPES = {
    ("float32", "float32", "float32"),
    ("float32", "int8", "float32"),
    ("float32", "uint8", "float32"),
    ("int8", "int8", "int8"),
    ("int8", "int4", "int8"),
    ("uint8", "uint8", "uint8"),
    ("int16", "int8", "int16"),
}


def _require_matrix_types(op: Operator, *, channels: int) -> None:
    """Types and scales; `channels` is the axis of the filters' outputs."""
    x, filters, *bias = op.operands
    types = x.dtype, filters.dtype, op.outputs[0].dtype
    require(types in _MATRIX_TYPES, f"no kernel for {', '.join(types)}")
    _require_scales(x, filters, op.outputs[0])
    scales = getattr(filters.quantization, "scale", None)
    if scales is not None and len(scales) > 1:
        axis = filters.quantization.quantizedDimension
        require(axis == channels, f"the filters have scales along axis {axis}")
    wanted = ("float32",) if x.dtype == "float32" else ("int32", "int64")
    for tensor in bias:
        require(tensor.dtype in wanted, f"the bias should be {wanted[0]}")


def _fully_connected(op: Operator) -> None:
    x, weights, *bias = op.operands
    _require_matrix_types(op, channels=0)
    _require_rank(weights, 2, "the weights")
    units, inputs = weights.shape
    require(op.options.weightsFormat == 0, "the weights are shuffled")
    require(inputs > 0 and x.size % inputs == 0, f"the weights take {inputs} inputs")
    output = op.outputs[0].shape
    require(output[-1:] == (units,), f"the weights give {units} outputs")
    require(math.prod(output) == x.size // inputs * units, "the outputs should be as many rows")
    rank = len(x.shape) if op.options.keepNumDims else 2
    _require_rank(op.outputs[0], rank, "the output")
    for tensor in bias:
        _require_shape(tensor, [units], "the bias")


def _windowed(
    shape: Shape,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    padding: int,
) -> Shape:
    """Height and width behind a convolution or a pooling of `[n, h, w, c]`."""
    for sizes, what in ((kernel, "window"), (strides, "stride"), (dilations, "dilation")):
        require(min(sizes) >= 1, f"no {what} of {' x '.join(map(str, sizes))}")
    require(padding in (_SAME, _VALID), f"no padding {padding}")
    extents = _extents(kernel, dilations)
    sides = tuple(
        -(-size // stride) if padding == _SAME else (size - extent) // stride + 1
        for size, extent, stride in zip(shape[1:3], extents, strides, strict=True)
    )
    require(min(sides) >= 1, f"the window {' x '.join(map(str, extents))} is too large")
    # Padding is computed in 32 bits.
    require(max(strides) < 1 << 24, "the stride is too large")
    require(math.prod(extents) <= _WINDOW_LIMIT, "the window is too large")
    return sides


def _extents(kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    return [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]


def _convolution(op: Operator) -> None:
    x, filters, *bias = op.operands
    output, options = op.outputs[0], op.options
    _require_matrix_types(op, channels=3 if op.name == "DEPTHWISE_CONV_2D" else 0)
    _require_rank(x, 4, "the input")
    _require_rank(filters, 4, "the filters")
    require(min(filters.shape) > 0, "the filters are empty")
    channels, *kernel, inputs = filters.shape
    if op.name == "DEPTHWISE_CONV_2D":
        require(filters.shape[0] == 1, "the filters should be [1, height, width, channels]")
        channels = inputs
        require(channels % x.shape[3] == 0, "the filters should be of the input's channels")
        # TFLite divides the channels itself; an old reader takes the option.
        multiplier = channels // x.shape[3]
        require(options.depthMultiplier in (0, multiplier), "another depth multiplier")
    else:
        require(x.shape[3] % inputs == 0, f"the filters take {inputs} channels")
        require(channels % (x.shape[3] // inputs) == 0, "the groups should be equal")
    size = _windowed(
        x.shape,
        kernel,
        (options.strideH, options.strideW),
        (options.dilationHFactor, options.dilationWFactor),
        options.padding,
    )
    _require_shape(output, (x.shape[0], *size, channels))
    for tensor in bias:
        _require_shape(tensor, [channels], "the bias")


def _pooling(op: Operator) -> None:
    x, options = op.operands[0], op.options
    _require_same_type(x, op.outputs[0])
    _require_scales(x, op.outputs[0])
    _require_rank(x, 4, "the input")
    kernel, strides = (
        (options.filterHeight, options.filterWidth),
        (options.strideH, options.strideW),
    )
    size = _windowed(x.shape, kernel, strides, (1, 1), options.padding)
    _require_shape(op.outputs[0], (x.shape[0], *size, x.shape[3]))


def _words(channels: int) -> int:
    return -(-channels // _WORD)


def _custom_options(op: Operator, *names: str) -> list[int]:
    options = read_integers(op.custom_options or b"")
    missing = [name for name in names if name not in options]
    require(not missing, f"it lacks the options {', '.join(missing)}")
    for name in names:
        require(abs(options[name]) < 1 << 31, f"the option {name} is {options[name]}")
    return [options[name] for name in names]


def _binary_convolution(op: Operator) -> None:
    x, filters, multiplier, bias, thresholds = op.inputs
    assert x is not None
    assert filters is not None
    channels_in, activation, padding, pad_value = _custom_options(
        op, "channels_in", "fused_activation_function", "padding", "pad_values"
    )
    strides = _custom_options(op, "stride_height", "stride_width")
    dilations = _custom_options(op, "dilation_height_factor", "dilation_width_factor")
    require(x.dtype == filters.dtype == "int32", "input and filters should be packed, int32")
    _require_rank(x, 4, "the input")
    _require_rank(filters, 4, "the filters")
    channels, *kernel, words = filters.shape
    require(min(filters.shape) > 0, "the filters are empty")
    require(channels_in > 0, f"no input of {channels_in} channels")
    require(x.shape[3] == _words(channels_in), "the input should have other channels")
    require(x.shape[3] % words == 0, f"the filters take {words} words")
    groups = x.shape[3] // words
    require(
        groups == 1 or (channels_in % (groups * _WORD) == channels % groups == 0),
        f"the channels can't be {groups} groups",
    )
    size = _windowed(x.shape, kernel, strides, dilations, padding)
    require(activation in _ACTIVATIONS, f"no kernel fuses activation {activation}")
    require(pad_value in (0, 1), f"no padding with {pad_value}")
    sums = math.prod(_extents(kernel, dilations)) * channels
    has_sums = padding == _SAME and pad_value == 0
    require(not has_sums or sums <= _SUMS_LIMIT, "the window is too large for padded zeros")
    output = op.outputs[0]
    is_packed, is_float = output.dtype == "int32", output.dtype == "float32"
    require(
        padding == _VALID or pad_value == 1 or (is_float and activation == 0),
        "only float outputs without activation can be padded with 0",
    )
    require(is_packed or is_float or output.dtype == "int8", "no kernel for this output")
    _require_scales(output)
    require(is_packed == (thresholds is not None), "packed outputs need thresholds, others none")
    has_both = multiplier is not None and bias is not None
    require(is_packed or has_both, "float outputs need a multiplier and a bias")
    for tensor, what, dtype in (
        (multiplier, "the multiplier", "float32"),
        (bias, "the bias", "float32"),
        (thresholds, "the thresholds", "int32"),
    ):
        _require_shape(tensor, [channels], what)
        require(tensor is None or tensor.dtype == dtype, f"{what} should be {dtype}")
    _require_shape(output, (x.shape[0], *size, _words(channels) if is_packed else channels))


def _binary_pooling(op: Operator) -> None:
    x, output = op.operands[0], op.outputs[0]
    require(x.dtype == output.dtype == "int32", "input and output should be packed, int32")
    _require_rank(x, 4, "the input")
    kernel = _custom_options(op, "filter_height", "filter_width")
    strides = _custom_options(op, "stride_height", "stride_width")
    (padding,) = _custom_options(op, "padding")
    size = _windowed(x.shape, kernel, strides, (1, 1), padding)
    _require_shape(output, (x.shape[0], *size, x.shape[3]))


def _pack(op: Operator) -> None:
    x, output = op.operands[0], op.outputs[0]
    require(x.dtype in ("float32", "int8", "bool"), f"no kernel for {x.dtype}")
    require(output.dtype == "int32", "the output should be packed, int32")
    require(len(x.shape) >= 1, "the input should have channels")
    _require_shape(output, (*x.shape[:-1], _words(x.shape[-1])))


def _unpack(op: Operator) -> None:
    x, output = op.operands[0], op.outputs[0]
    require(x.dtype == "int32", "the input should be packed, int32")
    require(output.dtype in ("float32", "int8", "bool"), f"no kernel for {output.dtype}")
    require(len(output.shape) >= 1, "the output should have channels")
    _require_shape(x, (*output.shape[:-1], _words(output.shape[-1])), "the input")


_FLOAT_UNARY = ("ABS", "COS", "ELU", "EXP", "LOG", "RSQRT", "SIN", "SQRT", "SQUARE")
_QUANTIZED_UNARY = ("RELU", "RELU6", "RELU_N1_TO_1", "NEG", "LOGISTIC", "TANH", "HARD_SWISH")

#: Operator name -> what it asks.
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("MINIMUM", "MAXIMUM"), Rule(_broadcast, (2,), types=_NUMBERS)),
    **{
        name: Rule(_broadcast, (2,), options=f"{name.title()}Options", types=_NUMBERS)
        for name in ("ADD", "SUB", "MUL", "DIV")
    },
    **dict.fromkeys(
        ("POW", "SQUARED_DIFFERENCE"), Rule(_broadcast, (2,), types=frozenset({"float32", "int32"}))
    ),
    **dict.fromkeys(
        ("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL"),
        Rule(_compare, (2,), types=_NUMBERS | {"bool"}),
    ),
    **dict.fromkeys(_FLOAT_UNARY, Rule(_same_shape_and_type, types=_REAL)),
    **dict.fromkeys(_QUANTIZED_UNARY, Rule(_same_shape_and_type, types=_REAL | _QUANTIZED)),
    "LEAKY_RELU": Rule(_same_shape_and_type, options="LeakyReluOptions", types=_REAL | _QUANTIZED),
    "SOFTMAX": Rule(_softmax, options="SoftmaxOptions", types=_REAL | _QUANTIZED),
    "LOG_SOFTMAX": Rule(_softmax, types=_REAL | _QUANTIZED),
    "CAST": Rule(_same_shape),
    "QUANTIZE": Rule(_quantize, types=_REAL | _QUANTIZED),
    "DEQUANTIZE": Rule(_dequantize, types=_REAL | _QUANTIZED | {"float16"}),
    "CONV_2D": Rule(
        _convolution, (2, 3), optional={2}, options="Conv2DOptions", types=_ANY | {"int4"}
    ),
    "DEPTHWISE_CONV_2D": Rule(_convolution, (2, 3), optional={2}, options="DepthwiseConv2DOptions"),
    **dict.fromkeys(
        ("AVERAGE_POOL_2D", "MAX_POOL_2D"),
        Rule(_pooling, options="Pool2DOptions", types=_REAL | _QUANTIZED),
    ),
    **dict.fromkeys(
        ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"),
        Rule(_reduce, (2,), options="ReducerOptions", types=_NUMBERS),
    ),
    "PAD": Rule(_pad, (2,), types=_NUMBERS),
    "PADV2": Rule(_pad, (3,), types=_NUMBERS),
    "PRELU": Rule(_prelu, (2,), types=_REAL | _QUANTIZED),
    "RESHAPE": Rule(_reshape, (1, 2)),
    "EXPAND_DIMS": Rule(_same_values, (2,)),
    "SQUEEZE": Rule(_same_values, options="SqueezeOptions"),
    "SLICE": Rule(_slice, (3,), types=_NUMBERS | {"bool"}),
    "TRANSPOSE": Rule(_transpose, (2,), types=_NUMBERS | {"bool"}),
    "BITCAST": Rule(_bitcast),
    "TILE": Rule(_tile, (2,)),
    "GATHER": Rule(_gather, (2,), options="GatherOptions"),
    "STRIDED_SLICE": Rule(
        _strided_slice, (4,), options="StridedSliceOptions", types=_NUMBERS | {"bool"}
    ),
    "SPLIT_V": Rule(_split, (3,), outputs=None, options="SplitVOptions"),
    "CONCATENATION": Rule(
        _concatenate, range(1, 1 << 16), options="ConcatenationOptions", types=_NUMBERS
    ),
    "FULLY_CONNECTED": Rule(
        _fully_connected, (2, 3), optional={2}, options="FullyConnectedOptions"
    ),
    "LceBconv2d": Rule(_binary_convolution, (5,), optional={2, 3, 4}),
    "LceBMaxPool2d": Rule(_binary_pooling),
    "LceQuantize": Rule(_pack),
    "LceDequantize": Rule(_unpack),
}
