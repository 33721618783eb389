"""Equal rows of members' arrays stand in flash once, if all that read an array can go by them."""

from __future__ import annotations

import numpy as np

from larq_ensemble.convert.targets.c.constants import Array, Constants
from larq_ensemble.convert.targets.c.equal_rows import MEMBER, Call, share_rows

MEMBERS = 3


def added(constants: Constants, rows: list[int], seed: int, width: int = 64) -> Array:
    """An array with a row of random numbers for each number."""
    numbers = np.random.default_rng(seed).integers(0, 100, (max(rows) + 1, width), np.int8)
    return constants.add(numbers[rows], "int8_t", "head")


def call(name: str, *rows: Array, whole: tuple[Array, ...] = ()) -> Call:
    return Call(name, ("arena", MEMBER) if rows else ("arena",), rows, whole)


def texts(calls: list[Call], constants: Constants) -> list[str]:
    return [each.text for each in share_rows(calls, constants, MEMBERS)]


def lengths(constants: Constants) -> list[int]:
    return [len(array.rows) for array in constants.arrays.values()]


def test_equal_rows_are_one() -> None:
    constants = Constants()
    same, also, other = (
        added(constants, rows, seed) for seed, rows in enumerate([[0, 1, 0], [0, 1, 0], [0, 1, 2]])
    )
    calls = [call("a", same, also), call("b", other), call("c"), call("d", same)]
    assert texts(calls, constants) == [
        "a(arena, rows_of_members_3[member]);",
        "b(arena, member);",
        "c(arena);",
        "d(arena, rows_of_members_3[member]);",
    ]
    *_, table = constants.arrays.values()
    assert (table.type, table.rows.tolist()) == ("uint8_t", [[0, 1, 0]])
    assert lengths(constants) == [2, 2, 3, 1]
    np.testing.assert_array_equal(next(iter(constants.arrays.values())).rows, same.rows[:2])


def test_an_array_that_is_also_read_by_member_stays() -> None:
    """A step has one number for all its arrays, so with a different one it keeps the member's."""
    constants = Constants()
    same, other = added(constants, [0, 0, 1], 0), added(constants, [0, 1, 2], 1)
    free = added(constants, [0, 0, 1], 2, width=100)
    calls = [call("a", same), call("b", same, other), call("c", free)]
    assert texts(calls, constants)[:2] == ["a(arena, member);", "b(arena, member);"]
    assert lengths(constants) == [3, 3, 2, 1]


def test_an_array_that_is_also_read_as_a_whole_stays() -> None:
    constants = Constants()
    same = added(constants, [0, 0, 1], 0)
    calls = [call("a", same), call("b", whole=(same,))]
    assert texts(calls, constants) == ["a(arena, member);", "b(arena);"]
    assert lengths(constants) == [3]


def test_what_saves_little_stays() -> None:
    constants = Constants()
    few = added(constants, [0, 0, 1], 0, width=66)  # the table takes 3 bytes
    assert texts([call("a", few)], constants) == ["a(arena, member);"]
    added(constants, [0, 0, 1], 1, width=67)
    calls = [call("a", array) for array in constants.arrays.values()]
    assert all("rows_of" in text for text in texts(calls, constants))
