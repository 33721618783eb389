"""What a `.tflite` file holds, byte by byte, without TensorFlow.

```python
inspection = inspect_file("ensemble.tflite")
inspection.categories  # {"binary_filters": 33408, ...}, the sum is the size of the file
```
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from convert.flatbuffer import operator_names, read_model
from larq_ensemble.metadata import ENTRY
from larq_ensemble.tflite_file import metadata_of, read_bytes, read_ensemble

#: Categories of bytes, in the order of reports.
CATEGORIES = (
    "binary_filters",
    "filter_scales",
    "convolutions",
    "heads",
    "member_tables",
    "other_constants",
    "metadata",
    "graph_and_padding",
)

_CONVOLUTIONS = {"CONV_2D", "DEPTHWISE_CONV_2D"}
_HEADS = {"FULLY_CONNECTED", "BATCH_MATMUL"}
_PASS_ON = {"RESHAPE", "TRANSPOSE", "DEQUANTIZE"}


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
        categories: bytes by what they are for; the sum is `bytes`.
        ops: number of operators by name.
        binary_filters: each different bit-packed filter.
        metadata: what the file says of itself; `None` for a model of other origin.
    """

    bytes: int
    theory_bytes: int | None
    categories: dict[str, int]
    ops: dict[str, int]
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
    names = operator_names(model)
    operators = [op for graph in model.subgraphs for op in graph.operators]
    categories = _categories(model)
    sizes = dict.fromkeys(CATEGORIES, 0)
    for index, category in categories.items():
        sizes[category] += _size(model, index)
    sizes["graph_and_padding"] = len(data) - sum(sizes.values())
    return Inspection(
        bytes=len(data),
        theory_bytes=None if metadata is None else metadata.theory_bytes,
        categories=sizes,
        ops=dict(Counter(names[op.opcodeIndex] for op in operators).most_common()),
        binary_filters=_binary_filters(model, categories),
        metadata=None if metadata is None else metadata.to_dict(),
    )


def _categories(model: Any) -> dict[int, str]:
    """Category of each non-empty buffer, by its index."""
    names = operator_names(model)
    found: dict[int, str] = {}
    for graph in model.subgraphs:
        constants = {
            index: tensor.buffer
            for index, tensor in enumerate(graph.tensors)
            if _size(model, tensor.buffer)
        }
        # `convert.member_graph` looks up what is the same for all members by a clamped number.
        clamped = {
            int(op.outputs[0]) for op in graph.operators if names[op.opcodeIndex] == "MINIMUM"
        }
        # From the end on, so that a gathered table is filed by what reads the gathered values.
        purpose: dict[int, str] = {}
        for op in reversed(graph.operators):
            name = names[op.opcodeIndex]
            inputs = op.inputs.tolist()
            if name in _PASS_ON or name == "GATHER":
                own = name == "GATHER" and inputs[1] not in clamped
                default = "member_tables" if own else "other_constants"
                purpose.setdefault(inputs[0], purpose.get(int(op.outputs[0]), default))
            elif name == "LceBconv2d":
                purpose[inputs[1]] = "binary_filters"
                purpose.update(dict.fromkeys(inputs[2:4], "filter_scales"))
            elif name in _CONVOLUTIONS:
                purpose.update(dict.fromkeys(inputs[1:], "convolutions"))
            elif name in _HEADS:
                purpose.update(dict.fromkeys(inputs[1:], "heads"))
        for tensor, buffer in constants.items():
            found.setdefault(buffer, purpose.get(tensor, "other_constants"))
    for entry in model.metadata or []:
        found[entry.buffer] = "metadata" if entry.name == ENTRY.encode() else "other_constants"
    return found


def _binary_filters(model: Any, categories: dict[int, str]) -> tuple[BinaryFilter, ...]:
    copies = Counter(buffer.data.tobytes() for buffer in model.buffers if buffer.data is not None)
    filters: dict[bytes, BinaryFilter] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if categories.get(tensor.buffer) == "binary_filters":
                content = model.buffers[tensor.buffer].data.tobytes()
                filters[content] = BinaryFilter(
                    tuple(tensor.shape.tolist()), len(content), copies[content]
                )
    return tuple(filters.values())


def _size(model: Any, buffer: int) -> int:
    data = model.buffers[buffer].data
    return 0 if data is None else data.size
