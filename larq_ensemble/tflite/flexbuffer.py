"""The options of LCE's operators: a FlexBuffer that is a map from names to integers.

# References
    - [FlexBuffers](https://flatbuffers.dev/flatbuffers/flexbuffers/)
"""

from __future__ import annotations

from functools import lru_cache

_INT, _UINT, _MAP, _BOOL = 1, 2, 9, 26


class MalformedOptionsError(ValueError):
    """Bytes that are no map of integers."""


@lru_cache(maxsize=256)
def read_integers(data: bytes) -> dict[str, int]:
    """The map that a FlexBuffer holds, by name.

    Names must be sorted, because C++ code looks them up by bisection.

    # Raises
        MalformedOptionsError: if it isn't such a map, or points outside the data.
    """
    try:
        return _root(data)
    except (IndexError, UnicodeDecodeError) as error:
        raise MalformedOptionsError("the options can't be parsed") from error


def _root(data: bytes) -> dict[str, int]:
    width, kind = data[-1], data[-2]
    _require(width in (1, 2, 4, 8) and kind >> 2 == _MAP, "the options are no map")
    width_of_items = 1 << (kind & 3)
    place = len(data) - 2 - width
    items = place - _unsigned(data, place, width)
    # Before the items: the keys' offset and width, and the number of items.
    count = _unsigned(data, items - width_of_items, width_of_items)
    width_of_keys = _unsigned(data, items - 2 * width_of_items, width_of_items)
    _require(width_of_keys in (1, 2, 4, 8), "the options have keys of an unknown width")
    place = items - 3 * width_of_items
    keys = place - _unsigned(data, place, width_of_items)
    same = _unsigned(data, keys - width_of_keys, width_of_keys) == count
    _require(same, "the options have another number of keys than of values")
    values = {}
    for number in range(count):
        place = keys + number * width_of_keys
        key = _text(data, place - _unsigned(data, place, width_of_keys))
        kind = _unsigned(data, items + count * width_of_items + number, 1) >> 2
        _require(kind in (_INT, _UINT, _BOOL), f"the option {key!r} is no integer")
        value = items + number * width_of_items
        _bounds(data, value, width_of_items)
        values[key] = int.from_bytes(
            data[value : value + width_of_items], "little", signed=kind == _INT
        )
    _require(list(values) == sorted(values) and len(values) == count, "the options aren't sorted")
    return values


def _unsigned(data: bytes, at: int, width: int) -> int:
    _bounds(data, at, width)
    return int.from_bytes(data[at : at + width], "little")


def _bounds(data: bytes, at: int, width: int) -> None:
    _require(0 <= at <= len(data) - width, "the options point outside themselves")


def _text(data: bytes, at: int) -> str:
    end = data.find(b"\0", at) if at >= 0 else -1
    _require(end >= 0, "the options point outside themselves")
    return data[at:end].decode()


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise MalformedOptionsError(problem)
