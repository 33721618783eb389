"""Arrays in flash: numbers as C writes them, each array once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from larq_ensemble.convert.targets.c.plan import Value, ValueFormat

#: The C type of an element.
C_TYPES: dict[ValueFormat, str] = {
    "float32": "float",
    "float16": "uint16_t",
    "int8": "int8_t",
    "int4": "uint8_t",
    "int16": "int16_t",
    "signs": "uint32_t",
}
#: Of a line.
WIDTH = 100


@dataclass(frozen=True)
class Array:
    """An array of the C source.

    # Arguments
        name: of the C variable.
        type: of an element.
        rows: its elements `[rows, n]`; members have a row each.
        purpose: what it is counted as.
    """

    name: str
    type: str
    rows: np.ndarray
    purpose: str

    @property
    def row_length(self) -> int:
        """Elements of a row."""
        return int(self.rows.shape[1])

    def definition(self) -> str:
        """The C definition, with a line of its own for each row."""
        lines = [f"static const {self.type} {self.name}[{self.rows.size}] = {{"]
        for row in self.rows:
            lines += wrapped(map(_literal, row), "   ")
        return "\n".join([*lines, "};"])


@dataclass
class Constants:
    """The arrays of a program. Equal ones are one."""

    arrays: dict[tuple[str, bytes], Array] = field(default_factory=dict)

    def add(self, rows: np.ndarray, type_: str, purpose: str) -> Array:
        """The array with these elements."""
        key = type_, rows.tobytes()
        if key not in self.arrays:
            stem = re.sub("[^a-z0-9]+", "_", purpose.lower()).strip("_")
            name = f"{stem}_{len(self.arrays)}"
            self.arrays[key] = Array(name, type_, np.ascontiguousarray(rows), purpose)
        return self.arrays[key]

    def add_value(self, value: Value, numbers: np.ndarray | None = None) -> Array:
        """The array of a value as it is stored.

        # Arguments
            numbers: its data in another order, `[..]` or `[members, ..]`.
        """
        data = value.data if numbers is None else numbers
        rows = data.reshape(len(data) if value.by_member else 1, -1)
        return self.add(stored(rows, value.format), C_TYPES[value.format], value.purpose)

    def bytes_by_purpose(self) -> dict[str, int]:
        """Bytes of flash."""
        sizes: dict[str, int] = {}
        for array in self.arrays.values():
            sizes[array.purpose] = sizes.get(array.purpose, 0) + array.rows.nbytes
        return sizes

    def definitions(self) -> str:
        """All arrays, grouped by purpose."""
        parts = []
        for purpose, size in self.bytes_by_purpose().items():
            parts.append(f"/* {purpose}: {size:,} bytes */")
            parts += [a.definition() for a in self.arrays.values() if a.purpose == purpose]
        return "\n\n".join(parts)


def stored(rows: np.ndarray, format_: ValueFormat) -> np.ndarray:
    """Rows of numbers `[rows, n]` in the elements that C has for the format.

    Signs are bits of words, set for -1, the lowest first. Numbers of 4 bits are two a byte, the
    first in the low bits. Each row begins with an element of its own.
    """
    if format_ == "float32":
        return rows.astype(np.float32)
    if format_ == "float16":
        return rows.astype(np.float16).view(np.uint16)
    if format_ == "int8":
        return rows.astype(np.int8)
    if format_ == "int16":
        return rows.astype(np.int16)
    if format_ == "int4":
        nibbles = _padded((rows.astype(np.int64) + 15) // 2, 2).astype(np.uint8)
        return nibbles[:, 0::2] | nibbles[:, 1::2] << 4
    bits = _padded(rows < 0, 32)
    return np.packbits(bits, axis=1, bitorder="little").view("<u4").astype(np.uint32)


def _padded(rows: np.ndarray, multiple: int) -> np.ndarray:
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % multiple)))


def float_literal(number: float) -> str:
    """A float32 in C, exactly."""
    rounded = np.float32(number)
    if np.isnan(rounded):
        return "NAN"
    if np.isinf(rounded):
        return "INFINITY" if rounded > 0 else "-INFINITY"
    return f"{rounded!s}f"


def _literal(number: Any) -> str:
    if isinstance(number, np.floating):
        return float_literal(float(number))
    if isinstance(number, np.uint32):
        return f"0x{int(number):08x}"
    if isinstance(number, np.uint16):
        return f"0x{int(number):04x}"
    return str(int(number))


def wrapped(items: Iterable[str], indent: str) -> list[str]:
    """Lines of items, each with a comma, that aren't too long."""
    lines, line = [], indent
    for item in items:
        if len(line) + len(item) + 2 > WIDTH:
            lines.append(line)
            line = indent
        line += f" {item},"
    return [*lines, line]
