"""Checks of arguments that several parts of the runtime take."""

from __future__ import annotations

import operator
import os
import warnings

from larq_ensemble.errors import EnsembleError


def integer_in_range(name: str, value: object, low: int, high: int | None, what: str = "") -> int:
    """A Python integer from an integer of Python or NumPy.

    # Arguments
        name: the argument's, for the message.
        value: what the caller gave.
        low, high: the range, both included; `None`: no end.
        what: what the range is, such as `"the members in the file"`.

    # Raises
        EnsembleError: for another type, also for booleans, or a value out of range.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < low or (high is not None and number > high):
        wanted = f"from {low} on" if high is None else f"from {low} to {high}"
        raise EnsembleError(
            f"`{name}` must be an integer {wanted}{what and f', {what}'}. Received: {value!r}."
        )
    return number


def bounded_threads(threads: object) -> int:
    """The number of threads to use: `threads`, but no more than the processors of this process.

    More threads than processors make every convolution wait: 8 on 2 processors are ten times
    slower than 2, and thousands never end.

    # Raises
        EnsembleError: if `threads` is no positive integer.
    """
    number = integer_in_range("threads", threads, 1, None)
    most = _processors()
    if number > most:
        warnings.warn(
            f"`threads` is {number}, but this process may use {most} "
            f"processor{'s'[: most > 1]}: it runs with `threads={most}`.",
            stacklevel=3,
        )
    return min(number, most)


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
