"""Memory that a process holds, against arrays of known size and against what a file must take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.convert import memory
from larq_ensemble.errors import EnsembleError

FILE = Path(__file__).parents[1] / "data" / "subgraphs.tflite"

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux says what a process holds"
)


@pytest.mark.parametrize("megabytes", [40])
def test_an_array_is_counted_to_the_page(megabytes: int) -> None:
    held = memory.held_bytes(lambda: np.ones(megabytes << 20, np.uint8))
    assert held == pytest.approx(megabytes << 20, abs=64 << 10)


def test_what_was_freed_is_not_counted() -> None:
    def work() -> list[bytes]:
        many = [bytes(10_000) for _ in range(3000)]
        return many[:1]

    assert memory.held_bytes(work) < 1 << 20


def test_a_file_is_opened_by_the_back_end_that_is_named() -> None:
    held = memory.resident_bytes(FILE, backend="litert", kernel="builtin", repetitions=1)
    # Its own bytes, and for each member the bytes of a model and an arena.
    assert 4 * FILE.stat().st_size < held < 20 << 20
    with pytest.raises(EnsembleError, match="can't be measured: Can't read"):
        memory.resident_bytes("missing.tflite", repetitions=1)


def test_elsewhere_it_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_STATUS", Path("/no such file"))
    assert memory.resident_bytes(FILE) is None
