"""Maps of integers that the official encoder wrote are read; nothing else is."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from flatbuffers import flexbuffers
from hypothesis import given
from hypothesis import strategies as st

from larq_ensemble.tflite.flexbuffer import MalformedOptionsError, read_integers

KEYS = st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1)
INTEGERS = st.integers(-(1 << 31), (1 << 31) - 1)


@given(st.dictionaries(KEYS, INTEGERS, min_size=1, max_size=12))
def test_maps(values: dict[str, int]) -> None:
    assert read_integers(bytes(flexbuffers.Dumps(values))) == values


@pytest.mark.parametrize("value", [[1], 1.5, {"a": "text"}, {"a": [1]}, {"a": None}, 7, "text"])
def test_other_values(value: Any) -> None:
    with pytest.raises(MalformedOptionsError):
        read_integers(bytes(flexbuffers.Dumps(value)))


DATA = bytes(flexbuffers.Dumps({"channels_in": 300, "padding": 1, "stride_height": -2}))


@given(st.lists(st.tuples(st.integers(0, len(DATA) - 1), st.integers(0, 255)), max_size=4))
def test_damage(edits: list[tuple[int, int]]) -> None:
    data = bytearray(DATA)
    for at, value in edits:
        data[at] = value
    with contextlib.suppress(MalformedOptionsError):
        values = read_integers(bytes(data))
        assert list(values) == sorted(values)


@pytest.mark.parametrize("size", range(len(DATA)))
def test_short_data(size: int) -> None:
    with contextlib.suppress(MalformedOptionsError):
        read_integers(DATA[:size])
    with contextlib.suppress(MalformedOptionsError):
        read_integers(DATA[size:])
