"""Replaces the operators of a graph one by one, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from larq_ensemble.ir.graph import Graph, Operator, Tensor, substituted
from larq_ensemble.ir.schema import enum, options
from larq_ensemble.legalization.packed import Signs

_PLAIN = (
    *("ADD", "BITCAST", "CAST", "DEQUANTIZE", "GATHER", "LESS"),
    *("MUL", "NEG", "PAD", "QUANTIZE", "RESHAPE", "SLICE"),
)
#: The tables of options of operators that patterns make.
_OPTIONS = {
    **{name: f"{name.title()}Options" for name in _PLAIN},
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "SUM": "ReducerOptions",
}
#: Versions of the operators' specifications other than 1, the first that has what patterns use.
_VERSIONS = {"DEQUANTIZE": 2}


class Conversion:
    """A graph whose operators are being replaced.

    Patterns call `op` for the new operators, and `keep` for one that stays. The old graph is not
    changed before `finish`.

    # Arguments
        graph: the graph.
        filters: as for `legalize`.

    # Attributes
        filters: the argument.
        signs: bit-packed tensor of the old graph -> what it became.
    """

    def __init__(self, graph: Graph, filters: str) -> None:
        self.filters = filters
        self.signs: dict[Tensor, Signs] = {}
        self._graph = graph
        self._operators: list[Operator] = []
        self._computed = set(graph.inputs)
        self._constants: dict[tuple[Any, ...], Tensor] = {}
        self._named = set(graph.inputs)
        self._replaced: dict[Tensor, Tensor] = {}
        self._made: dict[tuple[Any, ...], Tensor] = {}

    def producer(self, tensor: Tensor) -> Operator | None:
        """The operator of the old graph that computes a tensor."""
        return self._graph.producer(tensor)

    def replace(self, old: Tensor, new: Tensor) -> None:
        """Lets everything that reads a tensor of the old graph read another one."""
        if old in self._graph.outputs:
            if new in self._named:  # it is another output, too
                self.reshape(new, old.shape, output=old)
                return
            new.name = old.name
            self._named.add(new)
        self._replaced[old] = new

    def is_computed(self, tensor: Tensor) -> bool:
        """Whether operators of the new graph may read a tensor of the old one."""
        return tensor in self._computed

    def current(self, op: Operator) -> Operator:
        """An operator of the old graph as it reads the new tensors."""
        if self._replaced.keys().isdisjoint(op.operands):
            return op
        return substituted(op, self._replaced)

    def keep(self, op: Operator) -> None:
        """Adds an operator of the old graph."""
        op = self.current(op)
        self._operators.append(op)
        self._computed.update(op.outputs)

    def constant(self, values: Any, dtype: str = "float32", quantization: Any = None) -> Tensor:
        """A constant of the new graph; equal ones are one.

        # Arguments
            quantization: the schema's `QuantizationParametersT`, of integers that stand for reals.
        """
        array = np.ascontiguousarray(values, dtype)
        key = (array.shape, dtype, array.tobytes(), _scales(quantization))
        if key not in self._constants:
            tensor = Tensor.constant(array.reshape(np.shape(values)))
            tensor.quantization = quantization
            self._constants[key] = self._graph.add(tensor)
        return self._constants[key]

    def op(
        self,
        name: str,
        *inputs: Tensor,
        shape: Sequence[int] | None = None,
        dtype: str | None = None,
        quantization: Any = None,
        output: Tensor | None = None,
        version: int | None = None,
        **fields: Any,
    ) -> Tensor:
        """Adds an operator, and returns its output; the same operator again is the first one.

        # Arguments
            shape, dtype: of the output; by default the first input's.
            quantization: of the output.
            output: a tensor of the old graph that it computes; `None`: a new one.
            version: of its specification; by default the first that has what patterns use.
            **fields: of its options.
        """
        shape = inputs[0].shape if shape is None else tuple(shape)
        dtype = inputs[0].dtype if dtype is None else dtype
        key = (name, inputs, shape, dtype, _scales(quantization), tuple(map(repr, fields.items())))
        if output is None and key in self._made:
            return self._made[key]
        made = output or self._graph.add(Tensor(shape, dtype, quantization=quantization))
        table = options(_OPTIONS[name], **fields) if name in _OPTIONS else None
        version = version or _VERSIONS.get(name, 1)
        self.keep(Operator(name, inputs, (made,), table, version=version))
        return self._made.setdefault(key, made)

    def cast(self, tensor: Tensor, dtype: str) -> Tensor:
        """A tensor's values in another type."""
        types = enum("TensorType")
        fields: dict[str, Any] = {
            "inDataType": types[tensor.dtype.upper()],
            "outDataType": types[dtype.upper()],
        }
        return self.op("CAST", tensor, dtype=dtype, **fields)

    def reshape(
        self,
        tensor: Tensor,
        shape: Sequence[int],
        output: Tensor | None = None,
        quantization: Any = None,
    ) -> Tensor:
        """A tensor in another shape; itself if nothing changes.

        # Arguments
            output: as for `op`.
            quantization: of the output; by default the tensor's.
        """
        shape = tuple(shape)
        if tensor.shape == shape and output is None and quantization is None:
            return tensor
        return self.op(
            "RESHAPE",
            tensor,
            self.constant(shape, "int32"),
            shape=shape,
            quantization=quantization or tensor.quantization,
            output=output,
        )

    def slice(self, tensor: Tensor, first: int, count: int) -> Tensor:
        """Some of the numbers along the last axis of a tensor; itself if these are all."""
        shape = (*tensor.shape[:-1], count)
        if tensor.shape == shape:
            return tensor
        begin = self.constant([*[0] * (len(shape) - 1), first], "int32")
        version = 2 if tensor.dtype == "int8" else 1
        size = self.constant(shape, "int32")
        return self.op("SLICE", tensor, begin, size, shape=shape, version=version)

    def resized(self, tensor: Tensor, count: int) -> Tensor:
        """The first numbers along the last axis of a tensor, and zeros if these are not enough."""
        missing = count - tensor.shape[-1]
        if missing <= 0:
            return self.slice(tensor, 0, count)
        added = [*[(0, 0)] * (len(tensor.shape) - 1), (0, missing)]
        shape = (*tensor.shape[:-1], count)
        return self.op("PAD", tensor, self.constant(added, "int32"), shape=shape)

    def finish(self) -> None:
        """Puts the new operators into the graph, and drops what no output needs."""
        for output in self._graph.outputs:
            if output in self._replaced:
                self._graph.replace_uses(output, self._replaced[output])
        self._graph.rebuild(self._operators)
        self._graph.eliminate_dead_code()


def _scales(quantization: Any) -> bytes | None:
    return None if quantization is None else np.asarray(quantization.scale).tobytes()
