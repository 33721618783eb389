"""Constant evaluation with NumPy, for passes that need to know looked-up values.

```python
scale = evaluate(graph, tensor, {graph.input("member"): np.array([2], np.int32)})
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence

import numpy as np

from larq_ensemble.ir.graph import Graph, Operator, Tensor
from larq_ensemble.ir.schema import enum_names

Values = Sequence[np.ndarray]
Kernel = Callable[[Operator, Values], Values]


class UnknownOperatorError(Exception):
    """A value depends on an operator without a kernel here, or on an unknown input."""


def evaluate(graph: Graph, tensor: Tensor, known: MutableMapping[Tensor, np.ndarray]) -> np.ndarray:
    """The value of a tensor, as TFLite's kernels compute it.

    # Arguments
        graph: the graph of the tensor.
        tensor: depends only on constants and on what is known.
        known: values of inputs. Intermediate values are added, so further calls with the same
            mapping reuse them.

    # Raises
        UnknownOperatorError: if it depends on another input, or on an operator not in `KERNELS`.
    """
    if tensor in known:
        return known[tensor]
    if tensor.data is not None:
        return tensor.values
    op = graph.producer(tensor)
    if op is None or op.name not in KERNELS:
        raise UnknownOperatorError(f"{'an input' if op is None else op.name} can't be evaluated")
    inputs = [evaluate(graph, operand, known) for operand in op.operands]
    known.update(zip(op.outputs, KERNELS[op.name](op, inputs), strict=True))
    return known[tensor]


def _elementwise(compute: Callable[..., np.ndarray]) -> Kernel:
    """A kernel that broadcasts its inputs and applies the fused activation."""

    def kernel(op: Operator, inputs: Values) -> Values:
        values = compute(*inputs)
        activation = enum_names("ActivationFunctionType")[op.activation]
        if activation not in _RANGES:
            raise UnknownOperatorError(f"{op.name} with {activation} can't be evaluated")
        return [np.clip(values, *_RANGES[activation]) if op.activation else values]

    return kernel


_RANGES: Mapping[str, tuple[float | None, float | None]] = {
    "NONE": (None, None),
    "RELU": (0, None),
    "RELU_N1_TO_1": (-1, 1),
    "RELU6": (0, 6),
}


def _gather(op: Operator, inputs: Values) -> Values:
    if op.options is not None and op.options.batchDims:
        raise UnknownOperatorError("GATHER with batch dimensions can't be evaluated")
    values, indices = inputs
    return [np.take(values, indices, axis=op.options.axis if op.options else 0)]


def _split(op: Operator, inputs: Values) -> Values:
    values, sizes, axis = inputs
    return np.split(values, np.cumsum(sizes)[:-1], axis=int(axis))


def _reshape(op: Operator, inputs: Values) -> Values:
    return [inputs[0].reshape(op.outputs[0].shape)]


def _cast(op: Operator, inputs: Values) -> Values:
    return [inputs[0].astype(op.outputs[0].dtype)]


def _sum(op: Operator, inputs: Values) -> Values:
    values, axes = inputs
    keep = bool(op.options and op.options.keepDims)
    return [values.sum(axis=tuple(np.ravel(axes).tolist()), dtype=values.dtype, keepdims=keep)]


def _dequantize(op: Operator, inputs: Values) -> Values:
    if op.operands[0].dtype != "float16":
        raise UnknownOperatorError("DEQUANTIZE of integers can't be evaluated")
    return [inputs[0].astype(np.float32)]


def _unpack_bits(op: Operator, inputs: Values) -> Values:
    words = np.ascontiguousarray(inputs[0])
    bits = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")
    channels = op.outputs[0].shape[-1]
    return [np.where(bits[..., :channels], np.float32(-1), np.float32(1))]


#: Operator name -> kernel, for the operators between the members' tables and their values.
KERNELS: Mapping[str, Kernel] = {
    "ADD": _elementwise(np.add),
    "CAST": _cast,
    "DEQUANTIZE": _dequantize,
    "GATHER": _gather,
    "LceDequantize": _unpack_bits,
    "MINIMUM": _elementwise(np.minimum),
    "MUL": _elementwise(np.multiply),
    "NEG": _elementwise(np.negative),
    "RESHAPE": _reshape,
    "SPLIT_V": _split,
    "SUB": _elementwise(np.subtract),
    "SUM": _sum,
    "TILE": lambda op, inputs: [np.tile(inputs[0], inputs[1].tolist())],
    "TRANSPOSE": lambda op, inputs: [np.transpose(inputs[0], inputs[1].tolist())],
}
