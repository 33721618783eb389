"""A flatbuffer's object tree, the schema's `ModelT`, as bytes.

Equal tables (tensors, operators, options), vectors and strings are written once. Entries of a list
of tensors may share one description, because the interpreter gives each entry its own memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flatbuffers
import numpy as np

from larq_ensemble.ir.schema import table_key
from larq_ensemble.tflite.flatbuffer import ALIGNMENT, IDENTIFIER


def packed(model: Any, *, last: bytes | None = None) -> bytes:
    """The bytes of a `ModelT`; its constants are aligned for vector registers.

    # Arguments
        model: as `larq_ensemble.ir.flatbuffer.to_model` makes it; its lists are changed in place.
        last: the content of the buffer that shall stand at the end of the file.
    """
    _write_tables_once(model)
    builder = DeduplicatingBuilder(1 << 20)
    if last is not None:  # builders write from the end
        builder.CreateNumpyVector(np.frombuffer(last, np.uint8))
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _write_tables_once(model: Any) -> None:
    """Lets equal tensors, operators and options of a `ModelT` be one table, in place."""
    tables: dict[Any, _WrittenOnce] = {}

    def once(table: Any) -> _WrittenOnce:
        return tables.setdefault(table_key(table), _WrittenOnce(table))

    for graph in model.subgraphs:
        for op in graph.operators:
            if op.builtinOptions is not None:
                op.builtinOptions = once(op.builtinOptions)
        graph.operators = [*map(once, graph.operators)]
        graph.tensors = [*map(once, graph.tensors)]


class _WrittenOnce:
    """A table object that is packed at most once into a builder and then pointed to."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._builder: DeduplicatingBuilder | None = None
        self._offset = 0

    def Pack(self, builder: DeduplicatingBuilder) -> int:
        if self._builder is not builder:
            self._builder, self._offset = builder, self._table.Pack(builder)
        return self._offset


class DeduplicatingBuilder(flatbuffers.Builder):
    """A flatbuffer builder that writes equal vectors and strings once.

    It also restores what the generic packer loses: the alignment of the constants.
    """

    def __init__(self, initial_size: int) -> None:
        super().__init__(initial_size)
        self._written: dict[tuple[str, Any], int] = {}
        self._vector_start = 0
        self._vector_offsets: list[int] = []

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:
        self._vector_start, self._vector_offsets = self.Offset(), []
        return super().StartVector(elemSize, numElems, alignment)

    def PrependUOffsetTRelative(self, off: int) -> None:
        self._vector_offsets.append(off)
        super().PrependUOffsetTRelative(off)

    def EndVector(self, *args: Any) -> int:
        """Drops the vector again if an equal vector of tables was written before."""
        vector = super().EndVector(*args)
        offsets, self._vector_offsets = tuple(self._vector_offsets), []
        if not offsets:
            return vector
        first = self._written.setdefault(("tables", offsets), vector)
        if first != vector:
            self.head += vector - self._vector_start
        return first

    def CreateString(self, s: str | bytes, *args: Any, **kwargs: Any) -> int:
        data = s.encode() if isinstance(s, str) else bytes(s)
        return self._once("string", data, lambda: flatbuffers.Builder.CreateString(self, s))

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        data = x.tobytes()

        def write() -> int:
            alignment = ALIGNMENT if x.dtype == np.uint8 and x.size else x.dtype.itemsize
            self.StartVector(x.dtype.itemsize, x.size, alignment)
            self.head -= len(data)
            self.Bytes[self.head : self.head + len(data)] = data
            return self.EndVector()

        return self._once(x.dtype.str, data, write)

    def _once(self, kind: str, data: bytes, write: Callable[[], int]) -> int:
        key = (kind, data)
        if key not in self._written:
            self._written[key] = write()
        return self._written[key]
