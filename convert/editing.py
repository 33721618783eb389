"""What rewrites of a `ModelT`'s only subgraph have in common."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from larq_ensemble.convert.flatbuffer import add_buffer, operator_names, schema
from larq_ensemble.convert.packing import operator_code


class Editor:
    """Reads a graph and makes tensors and operators for it.

    # Arguments
        model: a `ModelT` with one subgraph.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.graph = model.subgraphs[0]

    def name(self, op: Any) -> str:
        return operator_names(self.model)[op.opcodeIndex]

    def shape(self, tensor: int) -> list[int]:
        shape = self.graph.tensors[tensor].shape
        return [] if shape is None else shape.tolist()

    def size(self, tensor: int) -> int:
        """How many numbers a tensor has."""
        return int(np.prod(self.shape(tensor)))

    def readers(self) -> Counter[int]:
        """How often each tensor is read, outputs of the graph included."""
        readers = Counter(int(index) for op in self.graph.operators for index in op.inputs)
        readers.update(map(int, self.graph.outputs))
        return readers

    def of_image(self) -> set[int]:
        """The tensors that depend on the image."""
        (signature,) = self.model.signatureDefs
        found = {entry.tensorIndex for entry in signature.inputs if entry.name == b"image"}
        for op in self.graph.operators:
            if not found.isdisjoint(op.inputs.tolist()):
                found.update(op.outputs.tolist())
        return found

    def like(self, tensor: int, shape: Sequence[int] | None = None) -> int:
        """A new tensor of the same type, and of the same shape if none is given."""
        new = copy.copy(self.graph.tensors[tensor])
        new.buffer = 0
        if shape is not None:
            new.shape = np.array(shape, np.int32)
        self.graph.tensors.append(new)
        return len(self.graph.tensors) - 1

    def constant(self, values: Sequence[int]) -> int:
        """A new int32 vector."""
        tensor = schema().TensorT()
        tensor.type, tensor.shape = schema().TensorType.INT32, np.array([len(values)], np.int32)
        tensor.buffer = add_buffer(self.model, np.array(values, np.int32))
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(self, name: str, inputs: Sequence[int], output: int, options: Any = None) -> Any:
        """A new operator, which is not in the graph yet.

        # Arguments
            name: of `BuiltinOperator`.
            options: the table of its options, for example a `CastOptionsT`.
        """
        op = schema().OperatorT()
        op.opcodeIndex = operator_code(self.model, getattr(schema().BuiltinOperator, name))
        op.inputs, op.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            op.builtinOptions = options
            op.builtinOptionsType = getattr(schema().BuiltinOptions, kind)
        return op
