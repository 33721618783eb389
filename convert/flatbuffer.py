"""TFLite flatbuffers as Python objects and back, without TensorFlow.

Uses the schema module that Larq Compute Engine ships, loaded by its path, because importing
`larq_compute_engine` imports TensorFlow.
"""

from __future__ import annotations

import contextlib
import importlib.util
import struct
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import flatbuffers
import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.file import ALIGNMENT, IDENTIFIER
from larq_ensemble.runtime.metadata import ENTRY

_SCHEMA = "larq_compute_engine.mlir.python.tflite_schema"


@lru_cache(maxsize=1)
def schema() -> ModuleType:
    """LCE's generated classes of the TFLite schema."""
    if _SCHEMA in sys.modules:
        return sys.modules[_SCHEMA]
    package = importlib.util.find_spec("larq_compute_engine")
    if package is None or not package.submodule_search_locations:
        raise EnsembleError(
            "Larq Compute Engine is not installed: install it with "
            "`pip install larq-compute-engine==0.16.0` (Python 3.10 to 3.12)."
        )
    path = Path(package.submodule_search_locations[0]) / "mlir" / "python" / "tflite_schema.py"
    spec = importlib.util.spec_from_file_location("larq_ensemble_tflite_schema", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} can't be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_model(data: bytes) -> Any:
    """The `ModelT` object tree of a flatbuffer; its scalar vectors are NumPy arrays.

    # Raises
        EnsembleError: if the bytes are damaged.
    """
    with parsing():
        model = schema().ModelT.InitFromObj(schema().Model.GetRootAsModel(data, 0))
        _check_indices(model)
    return model


@contextlib.contextmanager
def parsing() -> Iterator[None]:
    """Raises `EnsembleError` for what readers raise, depending on where a damaged file leads."""
    try:
        yield
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
            f"The model is damaged: it can't be parsed ({error}). Copy or convert it again."
        ) from error


def _check_indices(model: Any) -> None:
    """Raises `IndexError` for a reference to something that isn't there."""

    def check(indices: Any, count: int, lowest: int = 0) -> None:
        if any(not lowest <= int(index) < count for index in indices):
            raise IndexError("an index points to nothing")

    check((entry.buffer for entry in model.metadata or []), len(model.buffers))
    for graph in model.subgraphs:
        check((tensor.buffer for tensor in graph.tensors), len(model.buffers))
        check((op.opcodeIndex for op in graph.operators), len(model.operatorCodes))
        for holder in (graph, *graph.operators):
            # -1 stands for an optional input that is left out.
            check(holder.inputs, len(graph.tensors), lowest=-1)
            check(holder.outputs, len(graph.tensors))


def write_model(model: Any) -> bytes:
    """The bytes of a `ModelT`, equal vectors and strings stored once, constants aligned."""
    builder = SharingBuilder(1 << 20)
    # Written first, the ensemble's metadata stand last: they can be replaced by longer ones
    # (`larq_ensemble.runtime.file.with_metadata`).
    for entry in model.metadata or []:
        if entry.name in (ENTRY, ENTRY.encode()):
            builder.CreateNumpyVector(model.buffers[entry.buffer].data)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


class SharingBuilder(flatbuffers.Builder):
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
        """Takes a vector of tables back if one of the same tables stands already."""
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

    def _once(self, kind: str, data: bytes, write: Any) -> int:
        key = (kind, data)
        if key not in self._written:
            self._written[key] = write()
        return self._written[key]


def add_buffer(model: Any, values: np.ndarray) -> int:
    """Adds a constant to a `ModelT`; returns its number."""
    buffer = schema().BufferT()
    buffer.data = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def content(model: Any, tensor: Any) -> np.ndarray | None:
    """The values of a `TensorT`; `None` if it is no constant."""
    data = model.buffers[tensor.buffer].data
    if data is None:
        return None
    (dtype,) = (
        name.lower() for name, value in vars(schema().TensorType).items() if value == tensor.type
    )
    return data.view(dtype).reshape([] if tensor.shape is None else tensor.shape)


def add_metadata(model: Any, name: str, content: bytes) -> None:
    """Adds an entry to a `ModelT`'s metadata, in a buffer of its own."""
    entry = schema().MetadataT()
    entry.name, entry.buffer = name, add_buffer(model, np.frombuffer(content, np.uint8))
    model.metadata = [*(model.metadata or []), entry]


def operator_names(model: Any) -> list[str]:
    """Name of each operator code of a `ModelT`: `"CONV_2D"`, `"LceBconv2d"` and so on."""
    builtin = {
        value: name
        for name, value in vars(schema().BuiltinOperator).items()
        if not name.startswith("_")
    }
    return [
        code.customCode.decode()
        if code.customCode
        else builtin.get(max(code.builtinCode, code.deprecatedBuiltinCode), "unknown")
        for code in model.operatorCodes
    ]
