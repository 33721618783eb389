"""Floats of 16 bits in C are those of NumPy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.convert.targets.c import source

from ....c_compiler import library_of

KERNELS = Path(source.__file__).parent / "kernels"
PROGRAM = """
#include <stddef.h>
#include "float16.h"
void widen(const uint16_t *from, float *to, size_t n) {
  for (size_t i = 0; i < n; i++) to[i] = from_float16(from[i]);
}
void narrow(const float *from, uint16_t *to, size_t n) {
  for (size_t i = 0; i < n; i++) to[i] = to_float16(from[i]);
}
"""
ALL = np.arange(2**16, dtype=np.uint32).astype(np.uint16)

Convert = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def conversions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Convert, Convert]:
    """Conversions to float32 and from it."""
    folder = tmp_path_factory.mktemp("float16")
    (folder / "float16.c").write_text(PROGRAM)
    library = library_of(folder, "float16.c", f"-I{KERNELS}")

    def convert(function: str, kind: type) -> Convert:
        def call(numbers: np.ndarray) -> np.ndarray:
            out = np.empty(numbers.shape, kind)
            pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (numbers, out))
            library[function](*pointers, ctypes.c_size_t(numbers.size))
            return out

        return call

    return convert("widen", np.float32), convert("narrow", np.uint16)


def test_all_65536_numbers_are_read(conversions: tuple[Convert, Convert]) -> None:
    widen, _ = conversions
    expected = ALL.view(np.float16).astype(np.float32)
    got = widen(ALL)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    there = ~np.isnan(expected)
    np.testing.assert_array_equal(got[there].view(np.uint32), expected[there].view(np.uint32))


def test_numbers_are_rounded_to_the_nearest_and_ties_to_even(
    conversions: tuple[Convert, Convert],
) -> None:
    """Every number, what is halfway to the next, and the floats next to these."""
    _, narrow = conversions
    finite = ALL.view(np.float16)[np.isfinite(ALL.view(np.float16))].astype(np.float32)
    positive = np.unique(np.abs(finite))
    ends = np.append(positive, np.float32(65536))
    halfway = (ends[1:] + ends[:-1]) / 2
    near = np.concatenate([positive, halfway])
    numbers = np.concatenate([near, np.nextafter(near, np.inf), np.nextafter(near, -1)])
    special = np.array([np.inf, np.nan, 1e-45, 3e38], np.float32)
    numbers = np.concatenate([numbers, -numbers, special, -special]).astype(np.float32)
    with np.errstate(over="ignore"):
        expected = numbers.astype(np.float16)
    got = narrow(numbers).view(np.float16)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    there = ~np.isnan(expected)
    np.testing.assert_array_equal(got[there].view(np.uint16), expected[there].view(np.uint16))
