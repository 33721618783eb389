"""Replaces the operators of a graph one by one, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.graph import Graph, Operator, Tensor, substituted
from larq_ensemble.ir.schema import enum, options
from larq_ensemble.legalization.packed import Signs

#: The options of the operators that patterns make; a new one needs its table here.
_OPTIONS = {
    "ADD": "AddOptions",
    "BITCAST": "BitcastOptions",
    "CAST": "CastOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "DEQUANTIZE": "DequantizeOptions",
    "GATHER": "GatherOptions",
    "LESS": "LessOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MUL": "MulOptions",
    "NEG": "NegOptions",
    "QUANTIZE": "QuantizeOptions",
    "RESHAPE": "ReshapeOptions",
    "SLICE": "SliceOptions",
}
#: Versions of the operators' specifications other than 1, the first that has what patterns use.
_VERSIONS = {"DEQUANTIZE": 2}


class Conversion:
    """A graph whose operators are being replaced.

    Patterns call `op` for the new operators, and `keep` for one that stays. The old graph is not
    changed before `finish`.

    # Arguments
        graph: the graph.
        filters: how filters are stored, one of `FILTERS`.

    # Attributes
        filters: the argument.
        signs: bit-packed tensor of the old graph -> what it became.
    """

    def __init__(self, graph: Graph, filters: str) -> None:
        self.filters = filters
        self.signs: dict[Tensor, Signs] = {}
        self._graph = graph
        self._operators: list[Operator] = []
        self._constants: dict[tuple[Any, ...], Tensor] = {}
        self._replaced: dict[Tensor, Tensor] = {}
        self._made: dict[tuple[Any, ...], Tensor] = {}

    def producer(self, tensor: Tensor) -> Operator | None:
        """The operator of the old graph that computes a tensor."""
        return self._graph.producer(tensor)

    def replace(self, old: Tensor, new: Tensor) -> None:
        """Lets the operators of the old graph that read a tensor read another one."""
        if old in self._graph.outputs:
            self.reshape(new, old.shape, output=old)
        else:
            self._replaced[old] = new

    def reads_packed(self, op: Operator) -> bool:
        """Whether an operator reads a tensor that is no longer packed."""
        return not self.signs.keys().isdisjoint(op.operands)

    def keep(self, op: Operator) -> None:
        """Leaves an operator as it is."""
        if not self._replaced.keys().isdisjoint(op.operands):
            op = substituted(op, self._replaced)
        self._operators.append(op)

    def constant(self, values: Any, dtype: str = "float32", quantization: Any = None) -> Tensor:
        """A constant of the new graph; equal ones are one.

        # Arguments
            quantization: the schema's `QuantizationParametersT`, of integers that stand for reals.
        """
        array = np.ascontiguousarray(values, dtype)
        scales = None if quantization is None else np.asarray(quantization.scale).tobytes()
        key = (array.shape, dtype, array.tobytes(), scales)
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
        key = (name, inputs, shape, dtype, tuple(map(repr, fields.items())))
        if output is None and key in self._made:
            return self._made[key]
        made = output or self._graph.add(Tensor(shape, dtype, quantization=quantization))
        table = options(_OPTIONS[name], **fields)
        version = version or _VERSIONS.get(name, 1)
        self._operators.append(Operator(name, inputs, (made,), table, version=version))
        return self._made.setdefault(key, made)

    def cast(self, tensor: Tensor, dtype: str) -> Tensor:
        """A tensor's values in another type."""
        types = enum("TensorType")
        fields: dict[str, Any] = {
            "inDataType": types[tensor.dtype.upper()],
            "outDataType": types[dtype.upper()],
        }
        return self.op("CAST", tensor, dtype=dtype, **fields)

    def reshape(self, tensor: Tensor, shape: Sequence[int], output: Tensor | None = None) -> Tensor:
        """A tensor in another shape; itself if it has it and no `output` is given."""
        shape = tuple(shape)
        if tensor.shape == shape and output is None:
            return tensor
        wanted = self.constant(shape, "int32")
        return self.op("RESHAPE", tensor, wanted, shape=shape, output=output)

    def finish(self) -> None:
        """Puts the new operators into the graph, and drops what no output needs.

        # Raises
            EnsembleError: if the graph has a bit-packed output.
        """
        for tensor in self._graph.outputs:
            if tensor in self.signs:
                raise EnsembleError(
                    f"A graph's output {list(tensor.shape)} is bit-packed, and no builtin operator "
                    "packs bits: run the file with Larq Compute Engine."
                )
        self._graph.rebuild(self._operators)
        self._graph.eliminate_dead_code()


def refused(op: Operator, problem: str) -> EnsembleError:
    """The error for an operator that no builtin operators replace."""
    shapes = ", ".join(f"{tensor.dtype} {list(tensor.shape)}" for tensor in op.operands)
    return EnsembleError(
        f"{op.name} of {shapes} can't be replaced by builtin operators, because {problem}: run the "
        "file with Larq Compute Engine."
    )
