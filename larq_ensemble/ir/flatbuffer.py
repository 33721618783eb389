"""Reading a `Module`, and writing it as a flatbuffer's object tree, the schema's `ModelT`.

`larq_ensemble.convert.targets.lce` makes bytes of a `ModelT`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from larq_ensemble.ir.graph import Graph, Module, Tensor
from larq_ensemble.ir.schema import enum, schema
from larq_ensemble.tflite.reader import read_model


def read(data: bytes, name: str = "The model") -> Module:
    """The module of a flatbuffer. Tensors that share a buffer share their `data` array.

    # Arguments
        data: the flatbuffer.
        name: what an error calls it.

    # Raises
        EnsembleError: if the bytes are damaged.
    """
    model = read_model(data, name, _unpack)
    graphs = [
        Graph(
            graph.tensors, graph.operators, graph.inputs, graph.outputs, graph.signature, graph.name
        )
        for graph in model.graphs
    ]
    return Module(
        graphs,
        metadata=model.metadata,
        description=model.description,
        operator_codes=model.operator_codes,
        version=model.version,
    )


def _unpack(data: bytes, kind: str, at: int) -> Any:
    """A table as an object of the schema's class, which can be written again."""
    table = getattr(schema(), kind)()
    table.Init(data, at)
    return getattr(schema(), f"{kind}T").InitFromObj(table)


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
