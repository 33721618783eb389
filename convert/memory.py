"""How much memory a file takes while it runs: what its tensors need, and what a process holds.

The arena is an estimate of the first, by TFLite's own planner (`larq_ensemble.tflite.arena`). The
second is measured: a new process opens the file and predicts an image, and its resident memory
grows by the arenas, packed filters, the runtime's own structures and the bytes of the file.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.file import read_ensemble
from larq_ensemble.tflite.arena import arena_bytes
from larq_ensemble.tflite.reader import read_model

REPETITIONS = 3
_STATUS = Path("/proc/self/status")


def resident_bytes(
    tflite: str | os.PathLike[str],
    *,
    threads: int = 1,
    backend: str | None = None,
    kernel: str | None = None,
    repetitions: int = REPETITIONS,
) -> int | None:
    """By how much the memory of a process grows that opens a file and runs all members.

    Counted are private pages that are in memory (Linux's `RssAnon`), so no code of libraries, which
    processes share. The runtime is imported before, memory that was freed is given back after.

    # Arguments
        tflite: the file.
        threads, backend, kernel: as for `EnsembleInterpreter`.
        repetitions: processes to take the median of.

    # Returns
        Bytes; `None` where the system doesn't say, which is everywhere but on Linux.

    # Raises
        EnsembleError: if the file can't be run.
    """
    if not _STATUS.exists():
        return None
    options = {"threads": threads, "backend": backend, "kernel": kernel}
    command = [sys.executable, "-m", __name__, os.fspath(tflite), json.dumps(options)]
    # The process must find this package, also where it was only put on the path.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    sizes = []
    for _ in range(repetitions):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["it ended without a message"])[-1]
            raise EnsembleError(f"The memory of {os.fspath(tflite)!r} can't be measured: {reason}")
        sizes.append(int(done.stdout))
    return int(statistics.median(sizes))


def arenas_bytes(tflite: str | os.PathLike[str]) -> int:
    """What the tensors of the graphs that run take, the trunk's and the members', an estimate.

    It is `larq_ensemble.tflite.arena.arena_bytes`, summed over the graphs as they are in the file,
    because each has an interpreter of its own, and so an arena.
    """
    file = read_ensemble(tflite)
    graphs = read_model(file.data).graphs
    running = [*([] if file.trunk is None else [file.trunk]), *file.member_graphs]
    return sum(arena_bytes(graphs[graph.index]) for graph in running)


def held_bytes(work: Callable[[], Any]) -> int:
    """By how much this process's memory grows by what `work` returns and leaves behind."""
    before = _resident()
    result = work()
    grown = _resident() - before
    del result
    return grown


def _resident() -> int:
    """Bytes of private memory of this process, without what is free."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc only
        libc.malloc_trim(0)
    kilobytes = re.search(r"^RssAnon:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert kilobytes is not None
    return 1024 * int(kilobytes[1])


def _main(tflite: str, options: str) -> None:
    """What the process does."""
    chosen = json.loads(options)
    image = np.zeros((1, *EnsembleInterpreter(tflite, **chosen).input_shape), np.uint8)

    def run() -> EnsembleInterpreter:
        interpreter = EnsembleInterpreter(tflite, **chosen)
        interpreter.predict(image)
        return interpreter

    print(held_bytes(run))


if __name__ == "__main__":
    try:
        _main(*sys.argv[1:])
    except EnsembleError as error:
        sys.exit(first_line(error))
