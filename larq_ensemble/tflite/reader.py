"""Reading a `.tflite` file as a `Model`: no offset or index is followed unchecked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np

from larq_ensemble.tflite.flatbuffer import DamagedError, Flatbuffer, Table, parsing
from larq_ensemble.tflite.model import Graph, Model, Operator, Signature, Tensor
from larq_ensemble.tflite.schema import OPERATORS, OPTIONS, OPTIONS_2, TABLES, TYPES

Item = TypeVar("Item")
#: From data, a table's kind and its first byte to an object with the table's fields.
Unpack = Callable[[bytes, str, int], Any]

_CUSTOM = OPERATORS.index("CUSTOM")
_PLACEHOLDER = OPERATORS.index("PLACEHOLDER_FOR_GREATER_OP_CODES")
#: Fields that no ensemble has, and whose content is not read.
_UNREAD = {
    "Tensor": ("sparsity", "variantTensors"),
    "QuantizationParameters": ("details",),
    "Operator": (
        *("mutatingVariableInputs", "intermediates"),
        *("largeCustomOptionsOffset", "largeCustomOptionsSize"),
    ),
    "Buffer": ("offset", "size"),
}


def unpack_fields(data: bytes, kind: str, at: int) -> Any:
    """A table as an object of a class named `{kind}T`, as LCE's generated code calls it.

    Tables that the rules don't read have no attributes.
    """
    if kind not in TABLES:
        return _class(kind)()
    table = Table(Flatbuffer(data), at, kind)
    return _class(kind)(**{name: table[name] for name in TABLES[kind]})


@cache
def _class(kind: str) -> type[SimpleNamespace]:
    return type(f"{kind}T", (SimpleNamespace,), {})


def read_model(data: bytes, name: str = "The model", unpack: Unpack = unpack_fields) -> Model:
    """The content of a file. Tensors that share a buffer share their `data` array.

    # Arguments
        data: the file.
        name: what an error calls it.
        unpack: makes the objects of operators' options and of quantizations.

    # Raises
        EnsembleError: if the bytes are damaged.
    """
    with parsing(name):
        return _Reader(data, unpack).model()


class _Reader:
    """Reads each table once: files of many members point to the same tables again and again."""

    def __init__(self, data: bytes, unpack: Unpack) -> None:
        self._data, self._unpack = data, unpack
        self._root = Flatbuffer(data).root("Model")
        self._unread: dict[str, None] = {}
        self._seen: dict[tuple[str, int], Any] = {}
        self._codes = [self._operator_code(code) for code in self._root["operatorCodes"]]
        self._buffers = [self._once(buffer, self._buffer) for buffer in self._root["buffers"]]

    def model(self) -> Model:
        self._note_unread(self._root)
        graphs = [self._graph(graph) for graph in self._root["subgraphs"]]
        for entry in self._root["signatureDefs"]:
            graph = _at(graphs, entry["subgraphIndex"], "graph")
            if graph.signature is not None:
                self._unread["a second signature of a graph"] = None
            graph.signature = _signature(entry, graph.tensors)
        metadata = {}
        for entry in self._root["metadata"]:
            content = _at(self._buffers, entry["buffer"], "buffer")
            metadata[_text(entry["name"]) or ""] = b"" if content is None else content.tobytes()
        return Model(
            graphs,
            metadata,
            _text(self._root["description"]),
            self._codes,
            self._root["version"],
            [*self._unread],
        )

    def _once(self, table: Table, read: Callable[[Table], Item]) -> Item:
        key = table.kind, table.at
        if key not in self._seen:
            self._note_unread(table)
            self._seen[key] = read(table)
        return self._seen[key]

    def _note_unread(self, table: Table) -> None:
        for name in _UNREAD.get(table.kind, ()):
            # Writers may write empty vectors.
            if table.position(name) is not None and np.any(table[name]):
                self._unread[f"{table.kind}.{name}"] = None
        if table.has_unknown_fields:
            self._unread[f"a field of a later {table.kind}"] = None

    def _unpacked(self, kind: str, at: int) -> Any:
        key = f"{kind}T", at
        if key not in self._seen:
            if kind in TABLES:
                self._note_unread(Table(Flatbuffer(self._data), at, kind))
            self._seen[key] = self._unpack(self._data, kind, at)
        return self._seen[key]

    def _operator_code(self, code: Table) -> tuple[str, int]:
        # Older writers fill the field of 8 bits only, which stops at the schema's placeholder.
        number, small = code["builtinCode"], code["deprecatedBuiltinCode"]
        highest = max(number, small)
        if number not in (0, highest) or small not in (0, min(highest, _PLACEHOLDER)):
            raise DamagedError(f"an operator has the codes {number} and {small}")
        if highest != _CUSTOM:
            known = highest < len(OPERATORS)
            return OPERATORS[highest] if known else f"BUILTIN_{highest}", code["version"]
        name = _text(code["customCode"])
        if not name:
            raise DamagedError("a custom operator has no name")
        return name, code["version"]

    def _buffer(self, buffer: Table) -> np.ndarray | None:
        return buffer["data"]

    def _graph(self, graph: Table) -> Graph:
        self._note_unread(graph)
        tensors = [Tensor(*self._once(tensor, self._tensor_fields)) for tensor in graph["tensors"]]
        return Graph(
            tensors,
            [self._operator(op, tensors) for op in graph["operators"]],
            _listed(tensors, graph["inputs"]),
            _listed(tensors, graph["outputs"]),
            name=_text(graph["name"]),
        )

    def _tensor_fields(self, tensor: Table) -> tuple[Any, ...]:
        shape, signature = tensor["shape"], tensor["shapeSignature"]
        quantization = tensor["quantization"]
        if quantization is not None:
            quantization = self._once(quantization, self._quantization)
        return (
            () if shape is None else tuple(shape.tolist()),
            _at(TYPES, tensor["type"], "type").lower(),
            _at(self._buffers, tensor["buffer"], "buffer"),
            _text(tensor["name"]),
            quantization,
            None if signature is None else tuple(signature.tolist()),
            tensor["hasRank"],
            tensor["isVariable"],
        )

    def _quantization(self, table: Table) -> Any:
        return self._unpacked(table.kind, table.at)

    def _operator(self, op: Table, tensors: Sequence[Tensor]) -> Operator:
        code, inputs, outputs, options, custom_options = self._once(op, self._operator_fields)
        name, version = code
        return Operator(
            name,
            tuple(None if n == -1 else _at(tensors, n, "tensor") for n in inputs),
            tuple(_at(tensors, n, "tensor") for n in outputs),
            options,
            custom_options,
            version,
        )

    def _operator_fields(self, op: Table) -> tuple[Any, ...]:
        inputs, outputs, custom = op["inputs"], op["outputs"], op["customOptions"]
        return (
            _at(self._codes, op["opcodeIndex"], "operator code"),
            [] if inputs is None else inputs.tolist(),
            [] if outputs is None else outputs.tolist(),
            self._options(op),
            None if custom is None else custom.tobytes(),
        )

    def _options(self, op: Table) -> Any:
        for kinds, suffix in ((OPTIONS, ""), (OPTIONS_2, "2")):
            number, at = op[f"builtinOptions{suffix}Type"], op[f"builtinOptions{suffix}"]
            if number and at is not None:
                return self._unpacked(_at(kinds, number, "table of options"), at)
        return None


def _signature(entry: Table, tensors: Sequence[Tensor]) -> Signature:
    inputs, outputs = (
        {
            _text(item["name"]) or "": _at(tensors, item["tensorIndex"], "tensor")
            for item in entry[side]
        }
        for side in ("inputs", "outputs")
    )
    return Signature(_text(entry["signatureKey"]) or "", inputs, outputs)


def _listed(tensors: Sequence[Tensor], indices: np.ndarray | None) -> list[Tensor]:
    return [_at(tensors, n, "tensor") for n in ([] if indices is None else indices.tolist())]


def _at(items: Sequence[Item], index: int, what: str) -> Item:
    if not 0 <= index < len(items):
        raise DamagedError(f"it has no {what} {index}")
    return items[index]


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()
