"""Reading and writing a `Module` as a TFLite flatbuffer's object tree, the schema's `ModelT`.

`larq_ensemble.convert.targets.lce` makes bytes of a `ModelT`.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from larq_ensemble.convert.ir.graph import Graph, Module, Operator, Signature, Tensor
from larq_ensemble.convert.ir.schema import enum, enum_names, schema
from larq_ensemble.errors import EnsembleError

Item = TypeVar("Item")


def read(data: bytes, name: str = "The model") -> Module:
    """The module of a flatbuffer. Tensors that share a buffer share their `data` array.

    # Arguments
        data: the flatbuffer.
        name: what an error calls it.

    # Raises
        EnsembleError: if the bytes are damaged.
    """
    with parsing(name):
        return _module(_Reader(schema().Model.GetRootAsModel(data, 0)))


@contextlib.contextmanager
def parsing(name: str = "The model") -> Iterator[None]:
    """Turns the errors that reading a damaged file can raise into `EnsembleError`."""
    try:
        yield
    except EnsembleError:  # a ValueError that says what is wrong already
        raise
    except (
        struct.error,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
        MemoryError,
    ) as error:
        raise EnsembleError(
            f"{name} is damaged: it can't be parsed ({error}). Copy or convert it again."
        ) from error


class _Reader:
    """A flatbuffer's tables as the schema's objects.

    Files of many members point to the same tables again and again: each is unpacked once.
    """

    def __init__(self, root: Any) -> None:
        self._unpacked: dict[tuple[str, int], Any] = {}
        self.codes = [_operator_code(code) for code in self.all_of(root, "OperatorCodes")]
        self.buffers = [buffer.data for buffer in self.all_of(root, "Buffers")]
        self.graphs = [root.Subgraphs(number) for number in range(root.SubgraphsLength())]
        self.signatures = self.all_of(root, "SignatureDefs")
        self.metadata = self.all_of(root, "Metadata")
        self.description, self.version = _text(root.Description()), root.Version()

    def all_of(self, table: Any, name: str) -> list[Any]:
        """The entries of a vector of tables, e.g. the `TensorT`s of a subgraph's `Tensors`."""
        entries, length = getattr(table, name), getattr(table, f"{name}Length")
        return [self._unpack(entries(number)) for number in range(length())]

    def _unpack(self, table: Any) -> Any:
        kind = type(table).__name__
        key = kind, table._tab.Pos
        if key not in self._unpacked:
            self._unpacked[key] = getattr(schema(), f"{kind}T").InitFromObj(table)
        return self._unpacked[key]


def _module(reader: _Reader) -> Module:
    graphs = [_graph(graph, reader) for graph in reader.graphs]
    for entry in reader.signatures:
        graph = _at(graphs, entry.subgraphIndex)
        graph.signature = _signature(entry, graph.tensors)
    metadata = {}
    for entry in reader.metadata:
        content = _at(reader.buffers, entry.buffer)
        metadata[_text(entry.name) or ""] = b"" if content is None else content.tobytes()
    return Module(
        graphs,
        metadata=metadata,
        description=reader.description,
        operator_codes=reader.codes,
        version=reader.version,
    )


def _operator_code(code: Any) -> tuple[str, int]:
    if code.customCode:
        return _text(code.customCode) or "", code.version
    # Older writers fill the field of 8 bits only.
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return enum_names("BuiltinOperator").get(number, f"BUILTIN_{number}"), code.version


def _graph(graph: Any, reader: _Reader) -> Graph:
    tensors = [_tensor(tensor, reader.buffers) for tensor in reader.all_of(graph, "Tensors")]

    def listed(indices: Any) -> list[Tensor]:
        return [_at(tensors, index) for index in indices.tolist()]

    operators = []
    for op in reader.all_of(graph, "Operators"):
        name, version = _at(reader.codes, op.opcodeIndex)
        operators.append(
            Operator(
                name,
                tuple(None if index == -1 else _at(tensors, index) for index in op.inputs.tolist()),
                tuple(listed(op.outputs)),
                op.builtinOptions or op.builtinOptions2,
                None if op.customOptions is None else op.customOptions.tobytes(),
                version,
            )
        )
    return Graph(
        tensors,
        operators,
        listed(graph.InputsAsNumpy()),
        listed(graph.OutputsAsNumpy()),
        name=_text(graph.Name()),
    )


def _tensor(tensor: Any, buffers: Sequence[np.ndarray | None]) -> Tensor:
    signature = tensor.shapeSignature
    return Tensor(
        () if tensor.shape is None else tuple(tensor.shape.tolist()),
        enum_names("TensorType")[tensor.type].lower(),
        _at(buffers, tensor.buffer),
        _text(tensor.name),
        tensor.quantization,
        None if signature is None else tuple(signature.tolist()),
        tensor.hasRank,
        tensor.isVariable,
    )


def _signature(entry: Any, tensors: Sequence[Tensor]) -> Signature:
    inputs, outputs = (
        {_text(item.name) or "": _at(tensors, item.tensorIndex) for item in side or []}
        for side in (entry.inputs, entry.outputs)
    )
    return Signature(_text(entry.signatureKey) or "", inputs, outputs)


def _at(items: Sequence[Item], index: int) -> Item:
    if index < 0:
        raise IndexError("an index points to nothing")
    return items[index]


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def to_model(module: Module) -> Any:
    """The `ModelT` of a module.

    Each array of bytes gets one buffer, so constants share one if they share their `data`.
    """
    module.update_operator_codes()
    buffers = _Buffers()
    model = schema().ModelT()
    model.version, model.description = module.version, module.description
    model.operatorCodes = [_code_table(*code) for code in module.operator_codes]
    codes = {code: number for number, code in enumerate(module.operator_codes)}
    model.subgraphs = [_graph_table(graph, codes, buffers) for graph in module.graphs]
    model.signatureDefs = [
        _signature_table(graph, number)
        for number, graph in enumerate(module.graphs)
        if graph.signature is not None
    ] or None
    model.metadata = []
    for name, content in module.metadata.items():
        entry = schema().MetadataT()
        entry.name, entry.buffer = name, buffers.number(np.frombuffer(content, np.uint8))
        model.metadata.append(entry)
    model.metadata = model.metadata or None
    model.buffers = buffers.tables
    return model


class _Buffers:
    """The buffers of a model; number 0 has no content and stands for "no constant"."""

    def __init__(self) -> None:
        self.tables = [schema().BufferT()]
        self._arrays: list[np.ndarray] = []  # keeps them alive, so that no `id` is used again
        self._numbers: dict[int, int] = {}

    def number(self, data: np.ndarray | None) -> int:
        if data is None:
            return 0
        if id(data) not in self._numbers:
            self._numbers[id(data)] = len(self.tables)
            self._arrays.append(data)
            buffer = schema().BufferT()
            buffer.data = data
            self.tables.append(buffer)
        return self._numbers[id(data)]


def _code_table(name: str, version: int) -> Any:
    code = schema().OperatorCodeT()
    builtin = enum("BuiltinOperator")
    code.builtinCode = builtin.get(name, builtin["CUSTOM"])
    # The field of older readers has 8 bits and stops at the schema's placeholder.
    code.deprecatedBuiltinCode = min(code.builtinCode, builtin["PLACEHOLDER_FOR_GREATER_OP_CODES"])
    code.customCode = None if name in builtin else name
    code.version = version
    return code


def _graph_table(graph: Graph, codes: Mapping[tuple[str, int], int], buffers: _Buffers) -> Any:
    places = {tensor: place for place, tensor in enumerate(graph.tensors)}

    def indices(tensors: Sequence[Tensor | None]) -> np.ndarray:
        return np.array([-1 if t is None else places[t] for t in tensors], np.int32)

    table = schema().SubGraphT()
    table.name = graph.name
    table.tensors = [_tensor_table(tensor, buffers) for tensor in graph.tensors]
    table.inputs, table.outputs = indices(graph.inputs), indices(graph.outputs)
    table.operators = []
    for op in graph.operators:
        entry = schema().OperatorT()
        entry.opcodeIndex = codes[op.name, op.version]
        entry.inputs, entry.outputs = indices(op.inputs), indices(op.outputs)
        if op.options is not None:
            _set_options(entry, op.options)
        if op.custom_options is not None:
            entry.customOptions = np.frombuffer(op.custom_options, np.uint8)
        table.operators.append(entry)
    return table


def _set_options(entry: Any, options: Any) -> None:
    kind = type(options).__name__.removesuffix("T")
    if kind in enum("BuiltinOptions"):
        entry.builtinOptionsType, entry.builtinOptions = enum("BuiltinOptions")[kind], options
    else:
        entry.builtinOptions2Type, entry.builtinOptions2 = enum("BuiltinOptions2")[kind], options


def _tensor_table(tensor: Tensor, buffers: _Buffers) -> Any:
    table = schema().TensorT()
    table.shape = np.array(tensor.shape, np.int32)
    table.type = enum("TensorType")[tensor.dtype.upper()]
    table.buffer = buffers.number(tensor.data)
    table.name, table.quantization = tensor.name, tensor.quantization
    if tensor.shape_signature is not None:
        table.shapeSignature = np.array(tensor.shape_signature, np.int32)
    table.hasRank, table.isVariable = tensor.has_rank, tensor.is_variable
    return table


def _signature_table(graph: Graph, number: int) -> Any:
    places = {tensor: place for place, tensor in enumerate(graph.tensors)}

    def entries(named: Mapping[str, Tensor]) -> list[Any]:
        made = []
        for name, tensor in named.items():
            entry = schema().TensorMapT()
            entry.name, entry.tensorIndex = name, places[tensor]
            made.append(entry)
        return made

    assert graph.signature is not None
    table = schema().SignatureDefT()
    table.signatureKey, table.subgraphIndex = graph.signature.key, number
    table.inputs = entries(graph.signature.inputs)
    table.outputs = entries(graph.signature.outputs)
    return table
