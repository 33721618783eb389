"""What a `.tflite` file holds, byte by byte, without TensorFlow.

```python
inspection = inspect_file("ensemble.tflite")
inspection.categories  # {"binary_filters": 33408, ...}, the sum is the size of the file
```
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from flatbuffers import flexbuffers

from larq_ensemble.convert.categories import Category, category_of
from larq_ensemble.convert.passes.binary_weights import planes_of
from larq_ensemble.convert.passes.shared_trunk import complete_graphs, trunk_of
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.ir.graph import Graph, Module, Operator, Tensor
from larq_ensemble.network.graph import Kind, LayerGraph, LayerNode
from larq_ensemble.runtime.file import metadata_of, read_bytes, read_ensemble
from larq_ensemble.runtime.metadata import EnsembleMetadata
from larq_ensemble.tflite.arena import arena_bytes
from larq_ensemble.tflite.flatbuffer import parsing
from larq_ensemble.tflite.reader import read_model
from larq_ensemble.tflite.verifier import problems

_KINDS = {
    "CONV_2D": Kind.CONV,
    "DEPTHWISE_CONV_2D": Kind.CONV,
    "LceBconv2d": Kind.CONV,
    "FULLY_CONNECTED": Kind.DENSE,
    "BATCH_MATMUL": Kind.DENSE,
    "PRELU": Kind.ACTIVATION,
}

#: Where a name in the JSON is another one than the attribute's.
_JSON_KEYS = {
    "lower_bound": "theory",
    "lower_bound_bytes": "theory_bytes",
    "trunk_ops": "prefix_ops",
}


@dataclass(frozen=True)
class BinaryFilter:
    """A binary filter.

    # Arguments
        shape: of the constant. In a file for LCE `[out, height, width, words]`, 32 input channels a
            word; in one for stock runtimes `[out, height, width, in]` with a byte a weight, or a
            vector of bytes with 8 weights each.
        bytes: its size.
        copies: how many constants of the file have this content.
    """

    shape: tuple[int, ...]
    bytes: int
    copies: int


@dataclass(frozen=True)
class Inspection:
    """What a `.tflite` file holds.

    # Arguments
        bytes: size of the file.
        lower_bound_bytes: the least bytes that hold the ensemble's values; `None` if unknown.
        categories: bytes by what they are for, all of
            `larq_ensemble.convert.categories.Category`; the sum is `bytes`.
        lower_bound: the lower bound by category, without those that need no bytes; `None` if
            unknown. Where a batch norm comes before a sign, the file has one value per channel, the
            lower bound two.
        ops: number of operators by name in the complete graphs, which in the layout `"indexed"` is
            the graph of one member.
        trunk_ops: number of operators by name in the shared trunk, which runs once per image
            (`larq_ensemble.convert.passes.shared_trunk`); empty without a trunk.
        graph_ops: number of operators of a member, from the image to its logits.
        binary_filters: each different binary filter.
        arena_bytes: the memory that the tensors of each graph take while it runs, an estimate
            (`larq_ensemble.tflite.arena`), by the graph's signature; of a graph without one by its
            number.
        metadata: what the file says of itself; `None` for a model of other origin.
    """

    bytes: int
    lower_bound_bytes: int | None
    categories: dict[str, int]
    lower_bound: dict[str, int] | None
    ops: dict[str, int]
    trunk_ops: dict[str, int]
    graph_ops: int
    binary_filters: tuple[BinaryFilter, ...]
    arena_bytes: dict[str, int]
    metadata: dict[str, Any] | None

    @property
    def binary_filter_copies(self) -> int:
        """The number of copies of the most repeated binary filter; 1 is ideal."""
        return max((item.copies for item in self.binary_filters), default=0)

    def to_dict(self) -> dict[str, Any]:
        """As `inspect --json` gives it."""
        values = {_JSON_KEYS.get(name, name): value for name, value in asdict(self).items()}
        return {**values, "binary_filter_copies": self.binary_filter_copies}


def inspect_file(path: str | os.PathLike[str]) -> Inspection:
    """Assigns each byte of a `.tflite` file to a category; the file may be any model.

    # Raises
        EnsembleError: if the file is missing, no TFLite flatbuffer, or damaged.
    """
    data, name = read_bytes(path), repr(str(path))
    metadata = metadata_of(data, name)
    if metadata is not None:
        read_ensemble(path)  # compares the checksum
    module = read(data, name)
    with parsing(name):
        return _inspection(module, len(data), metadata)


def problems_of(path: str | os.PathLike[str]) -> list[str]:
    """Everything that is wrong with a `.tflite` file, or that can't be checked.

    An interpreter can run a file without problems. Opening an ensemble raises an error for the
    first thing that is wrong, but lets operators through that there is no rule for; here they are
    problems, too. The file may be any model.

    # Raises
        EnsembleError: if the file is missing or no TFLite flatbuffer, or can't be parsed.
    """
    data, name = read_bytes(path), repr(str(path))
    metadata = metadata_of(data, name)
    model = read_model(data, name)
    found = list(map(str, problems(model, None if metadata is None else metadata.members)))
    if metadata is not None and not found:
        read_ensemble(path)  # compares checksum, graphs and metadata
    return found


def _inspection(module: Module, size: int, metadata: EnsembleMetadata | None) -> Inspection:
    graphs, trunk = complete_graphs(module), trunk_of(module)
    constants = _constants(graphs)
    sizes = _sizes(constants, metadata)
    sizes[Category.METADATA] = sum(map(len, module.metadata.values()))
    sizes[Category.GRAPH] = size - sum(sizes.values())
    return Inspection(
        bytes=size,
        lower_bound_bytes=None if metadata is None else metadata.theory_bytes,
        categories={category.value: count for category, count in sizes.items()},
        lower_bound=None if metadata is None else _lower_bound(metadata),
        ops=_operators(graphs),
        trunk_ops={} if trunk is None else _operators([trunk]),
        graph_ops=len(graphs[0].operators) if graphs else 0,
        binary_filters=_binary_filters(constants),
        arena_bytes={_name(module, graph): arena_bytes(graph) for graph in module.graphs},
        metadata=None if metadata is None else metadata.to_dict(),
    )


def constant_bytes(graph: Graph) -> dict[str, int]:
    """Bytes of the constants of a quantized network, by category, without those that need none."""
    sizes = _sizes(_constants([graph]), None, is_quantized=True)
    return {category.value: size for category, size in sizes.items() if size}


def _sizes(
    constants: list[_Constant], metadata: EnsembleMetadata | None, *, is_quantized: bool = False
) -> dict[Category, int]:
    """Bytes of constants by category."""
    sizes = dict.fromkeys(Category, 0)
    for constant in constants:
        for category, part in constant.bytes_by_category(metadata):
            sizes[category] += part
    is_quantized |= metadata is not None and metadata.quantization is not None
    sizes[Category.FILTER_SCALES] += _bytes_of_scales(constants, is_quantized=is_quantized)
    return sizes


def _name(module: Module, graph: Graph) -> str:
    return str(module.graphs.index(graph)) if graph.signature is None else graph.signature.key


def _operators(graphs: Iterable[Graph]) -> dict[str, int]:
    """Number of operators by name, the most frequent first."""
    return dict(Counter(op.name for graph in graphs for op in graph.operators).most_common())


def _lower_bound(metadata: EnsembleMetadata) -> dict[str, int]:
    """Bytes of the lower bound by category, the members' and the shared ones together."""
    bound: Counter[str] = Counter()
    for name, size in metadata.theory_parts.items():
        _owner, _, category = name.partition("_")
        bound[category] += size
    return dict(bound)


@dataclass(frozen=True)
class _Purpose:
    """What a constant is for.

    # Arguments
        category: `None`: a table of members' vectors, whose columns the metadata describe.
        channels: of bit-packed filters, the input channels that use bits of their words.
    """

    category: Category | None
    channels: int | None = None


@dataclass(frozen=True)
class _Constant:
    """A buffer of the file, with the first tensor that has it.

    # Arguments
        data: its bytes.
        shape: of the tensor.
        purpose: of the tensor.
        quantization: of the tensor, or `None`.
    """

    data: np.ndarray
    shape: tuple[int, ...]
    purpose: _Purpose
    quantization: Any = None

    def bytes_by_category(
        self, metadata: EnsembleMetadata | None
    ) -> Iterator[tuple[Category, int]]:
        """Divides the constant's bytes among categories."""
        size, channels = self.data.size, self.purpose.channels
        if channels is not None:
            used = size * channels // (32 * -(-channels // 32))
            yield Category.BINARY_FILTERS, used
            yield Category.FILTER_PADDING, size - used
        elif self.purpose.category is not None:
            yield self.purpose.category, size
        else:
            yield from _by_columns(size, {} if metadata is None else metadata.columns)


def _by_columns(size: int, columns: Mapping[str, int]) -> Iterator[tuple[Category, int]]:
    """Divides the bytes of the table of members' vectors by what its columns are for."""
    total, before = sum(columns.values()), 0
    for name, count in columns.items():
        # A newer version may know more categories.
        category = next((item for item in Category if item.value == name), Category.OTHER)
        yield category, size * (before + count) // total - size * before // total
        before += count
    if not columns:
        yield Category.OTHER, size


def _constants(graphs: Iterable[Graph]) -> list[_Constant]:
    """Every buffer of the graphs once; trunk and rest have the same ones as the complete graphs."""
    found: dict[int, _Constant] = {}
    for graph in graphs:
        purposes = _Network(graph).purposes()
        for tensor in graph.tensors:
            if tensor.data is not None and tensor.data.size and id(tensor.data) not in found:
                purpose = purposes.get(tensor, _Purpose(Category.OTHER))
                found[id(tensor.data)] = _Constant(
                    tensor.data, tensor.shape, purpose, tensor.quantization
                )
    return list(found.values())


def _bytes_of_scales(constants: Iterable[_Constant], *, is_quantized: bool) -> int:
    """Bytes of the scales that stand beside filters, not in a buffer; equal ones once.

    # Arguments
        is_quantized: count those of all filters, else of binary ones.
    """
    scales = {
        constant.quantization.scale.tobytes()
        for constant in constants
        if constant.purpose.category in (_FILTERS if is_quantized else _BINARY)
        and (len(constant.shape) > 1 or not is_quantized)  # a bias has the product of two scales
        and constant.quantization is not None
        and constant.quantization.scale is not None
    }
    return sum(map(len, scales))


_BINARY = {Category.BINARY_FILTERS}
_FILTERS = {Category.STEM, Category.SHORTCUTS, Category.CONVOLUTIONS, Category.HEADS}


def _binary_filters(constants: Iterable[_Constant]) -> tuple[BinaryFilter, ...]:
    copies = Counter(constant.data.tobytes() for constant in constants)
    filters: dict[bytes, BinaryFilter] = {}
    for constant in constants:
        if constant.purpose.category is Category.BINARY_FILTERS:
            content = constant.data.tobytes()
            filters[content] = BinaryFilter(constant.shape, len(content), copies[content])
    return tuple(filters.values())


class _Network:
    """A graph as a network of layers, which tells what each constant is for.

    A tensor that depends on the image is data, any other is a weight. Operators may look up,
    convert or dequantize weights before an operator with data reads them.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        #: The layer that computes each tensor of data, and the kind of the last layer with a
        #: matrix before it.
        self._data = {tensor: "image" for tensor in graph.inputs if tensor.dtype != "int32"}
        self._last: dict[Tensor, Kind] = {}
        #: The name of an operator's layer: its number.
        self._names: dict[Operator, str] = {}
        layers = [LayerNode("image", Kind.INPUT)]
        for number, op in enumerate(graph.operators):
            data = [tensor for tensor in op.operands if tensor in self._data]
            if data:
                layer = self._layer(str(number), op, data)
                layers.append(layer)
                self._names[op] = layer.name
                self._data.update(dict.fromkeys(op.outputs, layer.name))
                is_matrix = layer.kind in (Kind.CONV, Kind.DENSE)
                last = layer.kind if is_matrix else self._last.get(data[0], Kind.INPUT)
                self._last.update(dict.fromkeys(op.outputs, last))
        self._layers = LayerGraph(layers)

    def _layer(self, name: str, op: Operator, data: list[Tensor]) -> LayerNode:
        is_merge = op.name in ("ADD", "CONCATENATION") and len(data) == 2
        kind = _KINDS.get(op.name, Kind.MERGE if is_merge else Kind.OTHER)
        inputs = tuple(self._data[tensor] for tensor in data)
        shape = op.operands[1].shape if kind is Kind.CONV else ()
        return LayerNode(name, kind, inputs, kernel_size=shape[1:3])

    def purposes(self) -> dict[Tensor, _Purpose]:
        """What each tensor that isn't data is for; not all of them are constants."""
        found: dict[Tensor, _Purpose] = {}
        # From the end on, so that what makes weights comes after what reads them.
        for op in reversed(self._graph.operators):
            made = found.get(op.outputs[0], _Purpose(Category.OTHER))
            for slot, tensor in enumerate(op.inputs):
                if tensor is None or tensor in self._data:
                    continue
                if op in self._names:
                    purpose = self._purpose(op, slot)
                elif op.name == "SPLIT_V":
                    purpose = _Purpose(Category.OTHER if slot else None)
                elif op.name in ("TILE", "RESHAPE", "SLICE", "SUM") and slot:
                    purpose = _Purpose(Category.OTHER)
                elif op.name == "GATHER" and slot and self._graph.producer(tensor, "GATHER"):
                    purpose = _Purpose(Category.OTHER)  # `passes.equal_rows`
                elif op.name == "GATHER" and not slot and self._is_unpacking(op):
                    purpose = _Purpose(Category.UNPACKING)
                elif (
                    op.name == "MUL"
                    and made.category is Category.BINARY_FILTERS
                    and not self._unpacking(tensor)
                ):
                    purpose = _Purpose(Category.FILTER_SCALES)
                else:
                    purpose = made
                found.setdefault(tensor, purpose)
        return found

    def _purpose(self, op: Operator, slot: int) -> _Purpose:
        """What an operator that has data reads from an input that isn't data."""
        layer = self._layers[self._names[op]]
        weights = op.inputs[slot]
        if op.name == "LceBconv2d":
            if slot == 1:
                options = flexbuffers.Loads(op.custom_options)
                return _Purpose(Category.BINARY_FILTERS, options["channels_in"])
            return _Purpose(Category.FILTER_SCALES if slot < 4 else Category.BATCH_NORM)
        assert weights is not None  # `purposes` passes over what is left out
        if unpacking := self._unpacking(weights):
            is_of_words = unpacking.name == "LceDequantize"
            channels = unpacking.outputs[0].shape[-1] if is_of_words else None
            return _Purpose(Category.BINARY_FILTERS, channels)
        if self._is_binary(op):
            return _Purpose(Category.BINARY_FILTERS if slot == 1 else Category.FILTER_SCALES)
        if op.name in ("ADD", "MUL") and self._is_binary(self._producer_of_data(op)):
            is_map = len(weights.shape) == 4 and weights.shape[1:3] != (1, 1)
            return _Purpose(Category.BORDERS if is_map else Category.FILTER_SCALES)
        if slot == 1 and layer.kind in (Kind.CONV, Kind.DENSE) and planes_of(weights):
            return _Purpose(Category.UNPACKED_FILTERS)
        if layer.kind is not Kind.OTHER:
            return _Purpose(category_of(layer, self._layers.roles[layer.name]))
        last = self._last[op.outputs[0]]
        if op.name not in ("ADD", "MUL", "SUB") or last is Kind.INPUT:
            return _Purpose(Category.OTHER)
        return _Purpose(Category.HEADS if last is Kind.DENSE else Category.BATCH_NORM)

    def _producer_of_data(self, op: Operator) -> Operator | None:
        """The operator that computes the data that another reads."""
        data = (tensor for tensor in op.operands if tensor in self._data)
        return self._graph.producer(next(data))

    def _is_binary(self, op: Operator | None) -> bool:
        """Whether it is a binary convolution of a file for stock runtimes."""
        if op is None or _KINDS.get(op.name) is not Kind.CONV or op.name == "LceBconv2d":
            return False
        filters = op.operands[1]
        return self._unpacking(filters) is not None or _are_signs(self._graph, filters)

    def _unpacking(self, weights: Tensor) -> Operator | None:
        """The operator that unpacks weights, before they are scaled or brought into shape.

        `None` if they aren't stored as bits, or as bytes that are converted at run time.
        """
        op = self._graph.producer(weights)
        while op is not None and op.name in ("MUL", "RESHAPE", "SLICE", "SUM"):
            op = self._graph.producer(op.operands[0])
        return op if op is not None and self._is_unpacking(op) else None

    def _is_unpacking(self, op: Operator) -> bool:
        """Whether it makes weights +1 and -1: by LCE, of bytes, or by a table of a byte's bits."""
        first = op.operands[0]
        return (
            op.name == "LceDequantize"
            or (op.name == "DEQUANTIZE" and _are_signs(self._graph, first))
            or (op.name == "GATHER" and first.shape == (256, 8))
        )


def _are_signs(graph: Graph, tensor: Tensor) -> bool:
    """Whether it is a constant of +1 and -1, a byte each, or is looked up in one."""
    while tensor.data is None:
        op = graph.producer(tensor)
        if op is None or op.name not in ("GATHER", "RESHAPE"):
            return False
        tensor = op.operands[0]
    return tensor.dtype == "int8" and bool((np.abs(tensor.values) <= 1).all())
