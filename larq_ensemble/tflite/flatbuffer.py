"""Tables of a flatbuffer whose every offset is checked before it is followed.

# References
    - [FlatBuffer internals](https://flatbuffers.dev/internals/)
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.tflite.schema import TABLES

IDENTIFIER = b"TFL3"
#: Alignment of constants in bytes: TFLite and XNNPACK read them with vector instructions.
ALIGNMENT = 16

_VECTOR_TYPES = {"?": np.bool_, "B": np.uint8, "i": np.int32, "f": np.float32, "q": np.int64}
_INT32, _UINT16, _UINT32 = struct.Struct("<i"), struct.Struct("<H"), struct.Struct("<I")
_NUMBERS = {kind: struct.Struct(f"<{kind}") for kind in "?bBiIqQf"}


class DamagedError(ValueError):
    """Bytes that are no flatbuffer of the schema; the message says what is wrong with them."""


@contextlib.contextmanager
def parsing(name: str = "The model") -> Iterator[None]:
    """Turns the errors that reading a damaged file can raise into `EnsembleError`.

    # Arguments
        name: what the error calls the file.
    """
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
        RecursionError,
    ) as error:
        reason = str(error) or type(error).__name__
        raise EnsembleError(
            f"{name} is damaged: it can't be parsed ({reason}). Copy or convert it again."
        ) from error


class Flatbuffer:
    """The bytes of a flatbuffer.

    # Arguments
        data: the whole buffer.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._vtables: dict[int, tuple[int, ...]] = {}

    def root(self, kind: str) -> Table:
        """The root table, which is a `kind` of the schema."""
        return Table(self, self.offset(0), kind)

    def number(self, kind: struct.Struct, at: int) -> Any:
        """The number at a byte."""
        if not 0 <= at <= len(self.data) - kind.size:
            raise DamagedError(f"it points to byte {at} of {len(self.data)}")
        return kind.unpack_from(self.data, at)[0]

    def offset(self, at: int) -> int:
        """The byte to which the offset at a byte points; numbers there are aligned."""
        target = at + self.number(_UINT32, at)
        if target % 4:
            raise DamagedError(f"it points to byte {target}, which is not aligned")
        return target

    def vtable(self, at: int) -> tuple[int, ...]:
        """The offset of each field in the table at a byte, 0: missing."""
        place = at - self.number(_INT32, at)
        if place not in self._vtables:
            size = self.number(_UINT16, place)
            if place % 2 or size % 2 or size < 4 or place + size > len(self.data):
                raise DamagedError(f"no vtable at byte {place}")
            self._vtables[place] = struct.unpack_from(f"<{size // 2}H", self.data, place)
        return self._vtables[place]


@cache
def _known_fields(kind: str) -> int:
    """The length of a vtable that has all fields of the schema."""
    return 1 + max(field.number for field in TABLES[kind].values())


class Table:
    """A table at byte `at`; `table["name"]` is the value of a field.

    # Arguments
        buffer: where it is.
        at: its first byte.
        kind: its name in the schema.

    # Raises
        DamagedError: here and for each field: if the value isn't within the buffer.
    """

    __slots__ = ("_buffer", "_fields", "_offsets", "at", "kind")

    def __init__(self, buffer: Flatbuffer, at: int, kind: str) -> None:
        self.at, self.kind = at, kind
        self._buffer, self._fields = buffer, TABLES[kind]
        self._offsets = buffer.vtable(at)
        if at + self._offsets[1] > len(buffer.data):
            raise DamagedError(f"a table at byte {at} ends outside it")

    @property
    def has_unknown_fields(self) -> bool:
        """Whether it has fields of a later schema than ours, which other readers may follow."""
        return any(self._offsets[_known_fields(self.kind) :])

    def position(self, name: str) -> int | None:
        """The byte of a field; `None` if it is missing."""
        field, offsets = self._fields[name], self._offsets
        if field.number >= len(offsets) or not offsets[field.number]:
            return None
        offset = offsets[field.number]
        if not 4 <= offset <= offsets[1] - field.size:
            raise DamagedError(f"{self.kind}.{name} is outside its table")
        return self.at + offset

    def __getitem__(self, name: str) -> Any:
        """A number; a string as bytes; an array; a table or a list of tables; a union's byte.

        A field that is missing has its default: `None`, or an empty list for tables.
        """
        field, at = self._fields[name], self.position(name)
        if at is None:
            return [] if field.item else field.default
        if field.item:
            return self._tables(name, field.item)
        if field.kind in _NUMBERS:
            return self._buffer.number(_NUMBERS[field.kind], at)
        if field.kind == "union":
            return self._buffer.offset(at)
        if field.kind in TABLES:
            return Table(self._buffer, self._buffer.offset(at), field.kind)
        start, length = self._vector(name, 1 if field.kind == "string" else field.item_bytes)
        if field.kind != "string":
            return np.frombuffer(self._buffer.data, _VECTOR_TYPES[field.kind[1]], length, start)
        end = start + length
        if self._buffer.data[end : end + 1] != b"\0":
            raise DamagedError(f"{self.kind}.{name} is no string")
        return self._buffer.data[start:end]

    def span(self, name: str) -> tuple[int, int]:
        """First byte of a vector's items, and the number of items; two zeros if it is missing."""
        if self.position(name) is None:
            return 0, 0
        return self._vector(name, self._fields[name].item_bytes)

    def overwrite(self, name: str, value: int, copy: bytearray) -> None:
        """Overwrites a number in a copy of the buffer; a missing field keeps its default."""
        at = self.position(name)
        if at is not None:
            _NUMBERS[self._fields[name].kind].pack_into(copy, at, value)

    def _vector(self, name: str, item_bytes: int) -> tuple[int, int]:
        at = self.position(name)
        assert at is not None
        start = self._buffer.offset(at)
        length = self._buffer.number(_UINT32, start)
        if start + 4 + length * item_bytes > len(self._buffer.data):
            raise DamagedError(f"{self.kind}.{name} ends outside it")
        return start + 4, length

    def _tables(self, name: str, kind: str) -> list[Table]:
        start, length = self._vector(name, 4)
        places = range(start, start + 4 * length, 4)
        return [Table(self._buffer, self._buffer.offset(at), kind) for at in places]
