"""C source of a plan, compiled for this machine and called from Python."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np

from larq_ensemble.convert.targets.c.plan import Plan
from larq_ensemble.convert.targets.c.source import c_sources
from larq_ensemble.runtime.metadata import EnsembleMetadata

from ....c_compiler import library_of

_GUARD = 0xA5


class Program:
    """The compiled source of a plan, with an arena of its exact size between guards.

    # Arguments
        folder: where the source and the library go.
        plan, metadata: what is compiled.
    """

    def __init__(self, folder: Path, plan: Plan, metadata: EnsembleMetadata) -> None:
        for name, text in c_sources(plan, metadata).items():
            (folder / name).write_text(text)
        self.library = library_of(folder, "ensemble.c", "-O1")
        self.classes = metadata.classes
        self.macros = macros(folder / "ensemble.h")
        size = int(self.macros["ENSEMBLE_ARENA_BYTES"])
        assert size % 8 == 0
        self._memory = np.full(size + 16, _GUARD, np.uint8)
        self.arena = self._memory[8:-8]

    def call(self, function: str, *arguments: np.ndarray | int | None) -> int:
        """Calls `ensemble_<function>` with the arena, and checks what lies beside it."""
        result = getattr(self.library, f"ensemble_{function}")(
            _pointer(self.arena),
            *(_pointer(a) if isinstance(a, np.ndarray) else a for a in arguments),
        )
        assert (self._memory[:8] == _GUARD).all()
        assert (self._memory[-8:] == _GUARD).all()
        return int(result)

    def logits(self, image: np.ndarray, member: int) -> np.ndarray:
        """A member's logits, after `begin` for the image."""
        out = np.full(self.classes, np.nan, np.float32)
        assert self.call("begin", image) == 0
        assert self.call("member", member, out) == 0
        return out


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return array.ctypes.data_as(ctypes.c_void_p)


def macros(header: Path) -> dict[str, str]:
    """The macros of a header."""
    return dict(re.findall(r"^#define (\w+) (\S+)", header.read_text(), re.MULTILINE))
