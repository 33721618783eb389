"""What a `.tflite` file holds: tensors and operators, as objects that refer to each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass(eq=False)
class Tensor:
    """A tensor of a graph; two are equal only if they are the same object.

    # Arguments
        shape: its dimensions; `()` is a scalar.
        dtype: the schema's `TensorType` in lower case: `"float32"`, `"int8"`, `"float16"`...
        data: bytes of a constant, uint8 `[n]`, little-endian; `None`: computed at run time.
        name: given by the converter, for people.
        quantization: the schema's `QuantizationParametersT`, or `None`.
        shape_signature: the shape with -1 for what may change, or `None`.
        has_rank: the schema's field of that name.
        is_variable: whether it keeps its value between runs.
    """

    shape: tuple[int, ...]
    dtype: str
    data: np.ndarray | None = None
    name: str | None = None
    quantization: Any = None
    shape_signature: tuple[int, ...] | None = None
    has_rank: bool = False
    is_variable: bool = False

    @classmethod
    def constant(cls, values: np.ndarray) -> Tensor:
        """A constant with the values of an array."""
        values = np.asarray(values)
        return cls(values.shape, values.dtype.name, as_bytes(values))

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    @property
    def values(self) -> np.ndarray:
        """A constant's values, `[*shape]`; those of int4 as int8.

        # Raises
            ValueError: if it is no constant, or its bytes don't have this shape and type.
        """
        if self.data is None:
            raise ValueError("the tensor is no constant")
        if self.dtype == "int4":
            nibbles = np.stack([self.data & 15, self.data >> 4], axis=-1).reshape(-1)
            signed = (nibbles[: self.size] ^ 8).astype(np.int8) - 8
            return signed.astype(np.int8).reshape(self.shape)
        return self.data.view(self.dtype).reshape(self.shape)

    def set_values(self, values: np.ndarray) -> None:
        """Makes the tensor a constant of these values, with their shape and type."""
        self.shape, self.dtype, self.data = values.shape, values.dtype.name, as_bytes(values)

    def is_constant(self, value: Any) -> bool:
        """Whether the tensor is a constant whose values equal `value`, broadcast."""
        return self.data is not None and bool(np.all(self.values == value))


def as_bytes(values: np.ndarray) -> np.ndarray:
    """The bytes of an array, uint8 `[n]`."""
    return np.ascontiguousarray(values).view(np.uint8).reshape(-1)


@dataclass(eq=False)
class Operator:
    """An operator of a graph.

    # Arguments
        name: of the schema's `BuiltinOperator`, e.g. `"CONV_2D"`, or a custom operator's code,
            e.g. `"LceBconv2d"`.
        inputs: `None` stands for an optional input that is left out.
        outputs: what it computes.
        options: the schema's table of its options, e.g. a `Conv2DOptionsT`, or `None`. Operators of
            a file may share one: put another in its place, don't change it.
        custom_options: of a custom operator: a serialized FlexBuffer, or empty; else `None`.
        version: of the operator's specification.
    """

    name: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Any = None
    custom_options: bytes | None = None
    version: int = 1

    @property
    def operands(self) -> list[Tensor]:
        """The inputs without those that are left out."""
        return [tensor for tensor in self.inputs if tensor is not None]

    @property
    def activation(self) -> int:
        """The fused activation, of the schema's `ActivationFunctionType`; 0: none."""
        return getattr(self.options, "fusedActivationFunction", 0)


@dataclass
class Signature:
    """The names by which a program calls a graph.

    # Arguments
        key: the SignatureDef's name.
        inputs, outputs: tensors by name. The graph's own lists may have another order.
    """

    key: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


class AnyGraph(Protocol):
    """A graph to read: that of a file, or the converter's, which can be edited."""

    tensors: list[Tensor]
    inputs: list[Tensor]
    outputs: list[Tensor]
    signature: Signature | None

    @property
    def operators(self) -> Sequence[Operator]:
        """In topological order."""


@dataclass
class Graph:
    """A subgraph of a file.

    # Arguments
        tensors: all of them; inputs, outputs and operands are among them.
        operators: in topological order.
        inputs, outputs: in the order of the interpreter.
        signature: its SignatureDef, if any.
        name: for people.
    """

    tensors: list[Tensor]
    operators: list[Operator]
    inputs: list[Tensor]
    outputs: list[Tensor]
    signature: Signature | None = None
    name: str | None = None


@dataclass
class Model:
    """A file.

    # Arguments
        graphs: the subgraphs, in the order of the file.
        metadata: the bytes of each entry, by name.
        description: for people.
        operator_codes: name and version of each operator, in the order of the file.
        version: of the schema.
        unread: what of the file the reader left out, e.g. a sparse tensor.
    """

    graphs: list[Graph]
    metadata: dict[str, bytes] = field(default_factory=dict)
    description: str | None = None
    operator_codes: list[tuple[str, int]] = field(default_factory=list)
    version: int = 3
    unread: list[str] = field(default_factory=list)
