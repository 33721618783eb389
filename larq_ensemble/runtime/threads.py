"""How many threads an interpreter may have."""

from __future__ import annotations

import os
import warnings

from larq_ensemble.console.wording import counted
from larq_ensemble.errors import check_whole


def bounded_threads(threads: object) -> int:
    """The number of threads to use: `threads`, but no more than the processors of this process.

    More threads than processors make every convolution wait: 8 on 2 processors are ten times
    slower than 2, and thousands never end.

    # Raises
        EnsembleError: if `threads` is no positive integer.
    """
    number = check_whole("threads", threads, 1)
    most = processors()
    if number > most:
        warnings.warn(
            f"`threads` is {number}, but this process may use {counted(most, 'processor')}: it "
            f"runs with `threads={most}`.",
            stacklevel=3,
        )
    return min(number, most)


def processors() -> int:
    """How many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
