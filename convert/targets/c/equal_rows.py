"""Stores equal rows of members' arrays once.

    array + member * n        becomes        array + row * n,  row = rows_of_members[member]

Members 0 and 1 are the same network on both images with `keep_pretrained=2` and `mirror`. One table
serves all steps in whose arrays the same members are equal; the others go by the member's number.

Left alone: what saves less than `_LEAST_SAVED` bytes, the table's taken off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from larq_ensemble.convert.passes.equal_rows import Rows, distinct_rows, first_with_each
from larq_ensemble.convert.targets.c.constants import Array, Constants

#: The argument that is a member's number, in C.
MEMBER = "member"

_LEAST_SAVED = 64
_LARGEST_BYTE = 255


@dataclass(frozen=True)
class Call:
    """A call of a step's function, and the arrays in flash that it reads.

    # Arguments
        function: its name in C.
        arguments: C; `MEMBER` is among them if the step reads rows.
        rows: arrays of which it reads the member's row.
        whole: arrays of which it reads all.
    """

    function: str
    arguments: tuple[str, ...]
    rows: tuple[Array, ...] = ()
    whole: tuple[Array, ...] = ()

    @property
    def text(self) -> str:
        """The call in C."""
        return f"{self.function}({', '.join(self.arguments)});"

    def by_row(self, table: Array) -> Call:
        """The same with the number of the member's row, which a table holds."""
        row = f"{table.name}[{MEMBER}]"
        arguments = (row if argument == MEMBER else argument for argument in self.arguments)
        return dataclasses.replace(self, arguments=tuple(arguments))


def share_rows(calls: Sequence[Call], constants: Constants, members: int) -> list[Call]:
    """Stores equal rows once, and returns the calls that read them.

    # Arguments
        calls: of all steps, in order.
        constants: the arrays; changed in place.
    """
    found = {_rows_of(call.rows, members) for call in calls if call.rows} - {None}
    choices = [(rows, _by_row(calls, rows, members)) for rows in sorted(filter(None, found))]
    if not choices:
        return list(calls)
    rows, chosen = max(choices, key=lambda choice: _saved(*choice))
    if _saved(rows, chosen) - members < _LEAST_SAVED:
        return list(calls)
    shared = {array.name for call in chosen for array in call.rows}
    for key, array in constants.arrays.items():
        if array.name in shared:
            fewer = np.ascontiguousarray(array.rows[first_with_each(rows)])
            constants.arrays[key] = dataclasses.replace(array, rows=fewer)
    type_ = "uint8_t" if members <= _LARGEST_BYTE else "uint16_t"
    numbers = np.array([rows], type_.removesuffix("_t"))
    table = constants.add(numbers, type_, "rows of members")
    return [call.by_row(table) if call in chosen else call for call in calls]


def _by_row(calls: Sequence[Call], rows: Rows, members: int) -> list[Call]:
    """The calls that can go by the number of a row: nothing else reads the arrays by members."""
    chosen = [call for call in calls if call.rows and _are_equal_in(call.rows, rows, members)]
    while True:
        others = {
            array.name
            for call in calls
            for array in (call.whole if call in chosen else (*call.rows, *call.whole))
        }
        kept = [call for call in chosen if others.isdisjoint(array.name for array in call.rows)]
        if len(kept) == len(chosen):
            return chosen
        chosen = kept


def _are_equal_in(arrays: Iterable[Array], rows: Rows, members: int) -> bool:
    """Whether members with the same number have the same rows in some arrays."""
    found = _rows_of(arrays, members)
    return found is not None and len({*zip(rows, found, strict=True)}) == len({*rows})


def _rows_of(arrays: Iterable[Array], members: int) -> Rows | None:
    """The number of each member's rows among the different ones; `None` if they aren't members'."""
    parts = [array.rows.view(np.uint8) for array in arrays]
    if any(len(part) != members for part in parts):
        return None
    return distinct_rows(np.concatenate(parts, axis=1))


def _saved(rows: Rows, calls: Sequence[Call]) -> int:
    arrays = {array.name: array for call in calls for array in call.rows}
    size = sum(array.rows[0].nbytes for array in arrays.values())
    return (len(rows) - len({*rows})) * size
