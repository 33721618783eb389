"""What a `.tflite` file holds, byte by byte, without TensorFlow.

```python
inspection = inspect_file("ensemble.tflite")
inspection.categories  # {"binary_filters": 33408, ...}, the sum is the size of the file
```
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from flatbuffers import flexbuffers

from larq_ensemble.convert.categories import Category, category_of
from larq_ensemble.convert.flatbuffer import operator_names, parsing, read_model, schema
from larq_ensemble.convert.prefix import complete_graphs, prefix_graph
from larq_ensemble.network.graph import Kind, LayerGraph, LayerNode
from larq_ensemble.runtime.file import metadata_of, read_bytes, read_ensemble
from larq_ensemble.runtime.metadata import EnsembleMetadata

_KINDS = {
    "CONV_2D": Kind.CONV,
    "DEPTHWISE_CONV_2D": Kind.CONV,
    "LceBconv2d": Kind.CONV,
    "FULLY_CONNECTED": Kind.DENSE,
    "BATCH_MATMUL": Kind.DENSE,
    "PRELU": Kind.ACTIVATION,
}


@dataclass(frozen=True)
class BinaryFilter:
    """A bit-packed filter.

    # Arguments
        shape: `[out, height, width, words]`, 32 input channels a word.
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
        theory_bytes: the least bytes that hold the ensemble's values; `None` if unknown.
        categories: bytes by what they are for, all of `larq_ensemble.convert.categories.Category`; the sum is
            `bytes`.
        theory: the bytes of theory likewise, without the categories that need none; `None` if
            unknown. Where a batch norm comes before a sign, the file has one value a channel and
            theory two.
        ops: number of operators by name, of what computes all members, or in the layout `"indexed"`
            one of them, from the image.
        prefix_ops: those of them that members have in common and that run once an image, as a
            graph of their own (`larq_ensemble.convert.prefix`); empty without it.
        graph_ops: how many operators a member takes from the image on.
        binary_filters: each different bit-packed filter.
        metadata: what the file says of itself; `None` for a model of other origin.
    """

    bytes: int
    theory_bytes: int | None
    categories: dict[str, int]
    theory: dict[str, int] | None
    ops: dict[str, int]
    prefix_ops: dict[str, int]
    graph_ops: int
    binary_filters: tuple[BinaryFilter, ...]
    metadata: dict[str, Any] | None

    @property
    def binary_filter_copies(self) -> int:
        """How often the most repeated bit-packed filter stands in the file; 1 is ideal."""
        return max((item.copies for item in self.binary_filters), default=0)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "binary_filter_copies": self.binary_filter_copies}


def inspect_file(path: str | os.PathLike[str]) -> Inspection:
    """Takes a `.tflite` file apart, one of ours or any other.

    # Raises
        EnsembleError: if the file is missing, no TFLite flatbuffer, or damaged.
    """
    data = read_bytes(path)
    metadata = metadata_of(data)
    if metadata is not None:
        read_ensemble(path)  # compares the checksum
    model = read_model(data)
    with parsing():
        return _inspection(model, len(data), metadata)


def _inspection(model: Any, size: int, metadata: EnsembleMetadata | None) -> Inspection:
    graphs, prefix = complete_graphs(model), prefix_graph(model)
    purposes = _purposes(model)
    sizes = dict.fromkeys(Category, 0)
    for buffer, purpose in purposes.items():
        for category, part in _bytes(_size(model, buffer), purpose, metadata):
            sizes[category] += part
    sizes[Category.GRAPH] = size - sum(sizes.values())
    return Inspection(
        bytes=size,
        theory_bytes=None if metadata is None else metadata.theory_bytes,
        categories={category.value: count for category, count in sizes.items()},
        theory=None if metadata is None else _theory(metadata),
        ops=_operators(model, graphs),
        prefix_ops={} if prefix is None else _operators(model, [prefix]),
        graph_ops=len(graphs[0].operators) if graphs else 0,
        binary_filters=_binary_filters(model, purposes),
        metadata=None if metadata is None else metadata.to_dict(),
    )


def _operators(model: Any, graphs: list[Any]) -> dict[str, int]:
    """Number of operators by name, the most frequent first."""
    names = operator_names(model)
    counts = Counter(names[op.opcodeIndex] for graph in graphs for op in graph.operators)
    return dict(counts.most_common())


@dataclass(frozen=True)
class _Purpose:
    """What a constant is for.

    # Arguments
        category: `None`: a table of members' vectors, whose columns the metadata describe.
        channels: of bit-packed filters, the input channels that use bits of their words.
    """

    category: Category | None
    channels: int | None = None


def _bytes(
    size: int, purpose: _Purpose, metadata: EnsembleMetadata | None
) -> Iterator[tuple[Category, int]]:
    """Divides the bytes of a constant among categories."""
    if purpose.channels is not None:
        used = size * purpose.channels // (32 * -(-purpose.channels // 32))
        yield Category.BINARY_FILTERS, used
        yield Category.FILTER_PADDING, size - used
    elif purpose.category is not None:
        yield purpose.category, size
    else:
        columns = metadata.columns if metadata is not None else {}
        total, before = sum(columns.values()), 0
        for name, count in columns.items():
            # A newer version may know more categories.
            category = next((item for item in Category if item.value == name), Category.OTHER)
            yield category, size * (before + count) // total - size * before // total
            before += count
        if not columns:
            yield Category.OTHER, size


def _theory(metadata: EnsembleMetadata) -> dict[str, int]:
    """Bytes in theory by category, the members' and the shared ones together."""
    theory: Counter[str] = Counter()
    for name, size in metadata.theory_parts.items():
        _owner, _, category = name.partition("_")
        theory[category] += size
    return dict(theory)


def _purposes(model: Any) -> dict[int, _Purpose]:
    """What each constant is for, by the index of its buffer."""
    found: dict[int, _Purpose] = {}
    for entry in model.metadata or []:
        found[entry.buffer] = _Purpose(Category.METADATA)
    for graph in complete_graphs(model):  # the others have the same constants
        purposes = _Network(model, graph).purposes()
        for index, tensor in enumerate(graph.tensors):
            if _size(model, tensor.buffer):
                purpose = purposes.get(index, _Purpose(Category.OTHER))
                found.setdefault(tensor.buffer, purpose)
    return found


class _Network:
    """A subgraph as a network of layers, from which what its constants are for can be told.

    What depends on the image is data; all else is weights, on which operators may work too
    (lookup, conversion, dequantization) before one that has data reads them.
    """

    def __init__(self, model: Any, graph: Any) -> None:
        self._graph = graph
        names = operator_names(model)
        self._operators = [(names[op.opcodeIndex], op) for op in graph.operators]
        self._makers: dict[int, str] = {}
        #: Name of the layer, a number of an operator, that makes each tensor of data.
        self._data = {
            int(index): "image"
            for index in graph.inputs
            if graph.tensors[int(index)].type != schema().TensorType.INT32
        }
        #: Kind of the last layer with a matrix before each tensor of data.
        self._last: dict[int, Kind] = {}
        layers = [LayerNode("image", Kind.INPUT)]
        for number, (name, op) in enumerate(self._operators):
            outputs = op.outputs.tolist()
            self._makers.update(dict.fromkeys(outputs, name))
            data = [index for index in op.inputs.tolist() if index in self._data]
            if data:
                layer = self._layer(str(number), name, op, data)
                layers.append(layer)
                self._data.update(dict.fromkeys(outputs, layer.name))
                matrix = layer.kind in (Kind.CONV, Kind.DENSE)
                last = layer.kind if matrix else self._last.get(data[0], Kind.INPUT)
                self._last.update(dict.fromkeys(outputs, last))
        self._layers = LayerGraph(layers)

    def _layer(self, number: str, name: str, op: Any, data: list[int]) -> LayerNode:
        kind = _KINDS.get(name, Kind.MERGE if name == "ADD" and len(data) == 2 else Kind.OTHER)
        inputs = tuple(self._data[index] for index in data)
        shape = self._graph.tensors[int(op.inputs[1])].shape if kind is Kind.CONV else ()
        return LayerNode(number, kind, inputs, kernel_size=tuple(map(int, shape[1:3])))

    def purposes(self) -> dict[int, _Purpose]:
        """What each tensor that isn't data is for; not all of them are constants."""
        found: dict[int, _Purpose] = {}
        # From the end on, so that what makes weights comes after what reads them.
        for number, (name, op) in reversed([*enumerate(self._operators)]):
            inputs = op.inputs.tolist()
            made = found.get(int(op.outputs[0]), _Purpose(Category.OTHER))
            for slot, index in enumerate(inputs):
                if index in self._data:
                    continue
                if int(op.outputs[0]) in self._data:
                    purpose = self._purpose(str(number), name, op, slot)
                elif name == "SPLIT_V":
                    purpose = _Purpose(Category.OTHER if slot else None)
                elif name in ("TILE", "RESHAPE") and slot:
                    purpose = _Purpose(Category.OTHER)
                else:
                    purpose = made
                found.setdefault(index, purpose)
        return found

    def _purpose(self, number: str, name: str, op: Any, slot: int) -> _Purpose:
        """What the operator, one that has data, reads from an input that isn't data."""
        layer = self._layers[number]
        weights = int(op.inputs[slot])
        if name == "LceBconv2d":
            if slot == 1:
                options = flexbuffers.Loads(bytes(op.customOptions))
                return _Purpose(Category.BINARY_FILTERS, options["channels_in"])
            return _Purpose(Category.FILTER_SCALES if slot < 4 else Category.BATCH_NORM)
        if layer.kind is Kind.CONV and self._makers.get(weights) == "LceDequantize":
            channels = int(self._graph.tensors[weights].shape[-1])
            return _Purpose(Category.BINARY_FILTERS, channels)
        if layer.kind is not Kind.OTHER:
            return _Purpose(category_of(layer, self._layers.roles[number]))
        last = self._last[int(op.outputs[0])]
        if name not in ("ADD", "MUL", "SUB") or last is Kind.INPUT:
            return _Purpose(Category.OTHER)
        return _Purpose(Category.HEADS if last is Kind.DENSE else Category.BATCH_NORM)


def _binary_filters(model: Any, purposes: dict[int, _Purpose]) -> tuple[BinaryFilter, ...]:
    copies = Counter(buffer.data.tobytes() for buffer in model.buffers if buffer.data is not None)
    filters: dict[bytes, BinaryFilter] = {}
    for graph in complete_graphs(model):
        for tensor in graph.tensors:
            if tensor.buffer in purposes and purposes[tensor.buffer].channels is not None:
                content = model.buffers[tensor.buffer].data.tobytes()
                filters[content] = BinaryFilter(
                    tuple(tensor.shape.tolist()), len(content), copies[content]
                )
    return tuple(filters.values())


def _size(model: Any, buffer: int) -> int:
    data = model.buffers[buffer].data
    return 0 if data is None else data.size
