"""Stores equal rows of members' tables once.

    table [m, ...] ------------------> GATHER -> value
    number --------------------------------^

becomes

    index [m] -> GATHER -> row         rows [k, ...] -> GATHER -> value
    number ---------^                  row -----------------^

Members 0 and 1 are the same network on both images with `keep_pretrained=2` and `mirror`. Each of
the k different rows is kept once, in the order of the members. Tables in which the same members are
equal have one index.

An index costs 80 to 180 bytes in the files of the package: an operator, two tensors, a buffer with
4 bytes for each member, and their places in the lists of each graph.

Left alone: tables in which an index saves less than `_LEAST_SAVED` bytes, its own 4 bytes a member
taken off, counted for all tables that share it; tables that something else reads too, that have
other numbers of rows than members or a scale a row, or whose values are smaller than a byte.

Exact: a member reads the bytes that it read before.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from larq_ensemble.convert.passes.member_values import is_lookup
from larq_ensemble.ir.graph import Graph, Module, Operator, Tensor

#: Of each member the number of its row among the different ones.
Rows = tuple[int, ...]

_INDEX_BYTES = 4  # of a member
_LEAST_SAVED = 256


def run(module: Module) -> Counter[str]:
    """Counts `shared_rows`, the rows that are no longer stored."""
    graph, count = module.graph, 0
    lookups = _lookups(graph)
    alike: dict[Rows, dict[Tensor, None]] = defaultdict(dict)
    for lookup in lookups:
        table = lookup.operands[0]
        if _may_have_other_rows(graph, table, module.members, lookups):
            alike[distinct_rows(_as_rows(table, module.members))][table] = None
    for rows, tables in alike.items():
        if _saved(rows, list(tables)) - _INDEX_BYTES * len(rows) >= _LEAST_SAVED:
            _look_up_twice(graph, rows, [op for op in lookups if op.operands[0] in tables])
            for table in tables:
                _set_rows(table, _as_rows(table, len(rows))[first_with_each(rows)])
            count += len(tables) * (len(rows) - len(set(rows)))
    return Counter(shared_rows=count)


def restore(module: Module) -> bool:
    """Gives each member a row of its own again, in place; returns whether any had none."""
    graph, found = module.graph, False
    for lookup in _lookups(graph):
        index, number = lookup.operands
        readers = graph.consumers(lookup.outputs[0])
        tables = {op.operands[0]: None for op in readers}
        if (
            (index.dtype, len(index.shape)) != ("int32", 1)
            or not readers
            or graph.uses(lookup.outputs[0]) > len(readers)
            or not all(is_lookup(op) and op.operands[1] is lookup.outputs[0] for op in readers)
            or not all(op in readers for table in tables for op in graph.consumers(table))
        ):
            continue
        for table in tables:
            _set_rows(table, _as_rows(table, table.shape[0])[index.values])
        for reader in readers:
            graph.rewrite(reader, inputs=(reader.inputs[0], number))
        found = True
    if found:
        graph.eliminate_dead_code()
    return found


def distinct_rows(rows: np.ndarray) -> Rows:
    """The number of each row of bytes among the different ones, in the order of their first."""
    numbers: dict[bytes, int] = {}
    return tuple(numbers.setdefault(row.tobytes(), len(numbers)) for row in rows)


def first_with_each(rows: Rows) -> list[int]:
    """The first member with each row."""
    return [rows.index(row) for row in range(len(set(rows)))]


def _lookups(graph: Graph) -> list[Operator]:
    """The operators that read a member's row of a constant table."""
    number = graph.input("member")
    numbers = set() if number is None else {number}
    for op in graph.operators:
        if op.name == "RESHAPE" and op.operands[0] in numbers:
            numbers.update(op.outputs)
    return [op for op in graph.operators if is_lookup(op) and op.operands[1] in numbers]


def _may_have_other_rows(
    graph: Graph, table: Tensor, members: int, lookups: Sequence[Operator]
) -> bool:
    """Whether only lookups read a table, and all of it is in its rows' bytes."""
    scale = getattr(table.quantization, "scale", None)
    return (
        table.shape[0] == members
        and table.data is not None
        and table.data.size > 0
        and table.dtype != "int4"
        and (scale is None or len(scale) < 2)
        and table not in graph.outputs
        and all(op in lookups for op in graph.consumers(table))
    )


def _as_rows(table: Tensor, rows: int) -> np.ndarray:
    """A table's bytes, uint8 `[rows, bytes]`."""
    assert table.data is not None  # `is_lookup`
    return table.data.reshape(rows, -1)


def _set_rows(table: Tensor, rows: np.ndarray) -> None:
    table.shape, table.data = (len(rows), *table.shape[1:]), rows.reshape(-1)


def _saved(rows: Rows, tables: Sequence[Tensor]) -> int:
    """Bytes of the rows that need not be stored; tables with the same bytes are one."""
    contents = {table.data.tobytes() for table in tables if table.data is not None}
    return (len(rows) - len(set(rows))) * sum(map(len, contents)) // len(rows)


def _look_up_twice(graph: Graph, rows: Rows, lookups: Sequence[Operator]) -> None:
    """Lets lookups go by the number of a row, which is looked up by that of the member."""
    index = graph.add(Tensor.constant(np.array(rows, np.int32)))
    found: dict[Tensor, Tensor] = {}
    for lookup in lookups:
        table, number = lookup.operands
        if number not in found:
            found[number] = graph.add_like(index, number.shape)
            # Of the same version, so that the file needs no further code of an operator.
            first = Operator(
                "GATHER", (index, number), (found[number],), lookup.options, None, lookup.version
            )
            graph.insert(first, after=graph.producer(number))
        graph.rewrite(lookup, inputs=(table, found[number]))
