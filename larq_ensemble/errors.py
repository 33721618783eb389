"""Errors that users can cause. Each message is one line: what is wrong, and what to do."""

from __future__ import annotations

import math
import numbers
import platform
import sys
from collections.abc import Iterable
from typing import Any


class EnsembleError(ValueError):
    """Input that can't be used. The message names the argument, the value and the way out.

    Arguments are named as in Python, in backticks. The command line prints the message as one line
    on stderr, with its options in place of the arguments, and exits with 1.
    """


class SettingsError(EnsembleError):
    """Settings of a training that make it impossible, such as a rate at which it diverges.

    With other settings the same network may be trained on the same data.
    """


class UnknownNameError(EnsembleError):
    """A name that is in no registry.

    # Arguments
        argument: the argument that takes the name, such as `"model"`.
        value: the name received.
        known: the names that exist.
    """

    def __init__(self, argument: str, value: object, known: Iterable[str]) -> None:
        super().__init__(f"Unknown {argument} {value!r}. Known: {', '.join(sorted(known))}.")


def install_command(extra: str) -> str:
    """How to install the packages of one of the extras, for the end of a message.

    No index has larq-ensemble yet, so this is the command for a checkout.

    # Arguments
        extra: `"calibrate"`, `"convert"` or `"train"`.
    """
    command = f"in larq-ensemble's checkout, `pip install -c constraints.txt '.[{extra}]'`"
    if extra == "calibrate":
        return command
    # Larq Compute Engine, which converts, has no wheels for others.
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        here = f"{sys.version_info[0]}.{sys.version_info[1]}"
        command = f"with Python 3.10, 3.11 or 3.12 (this is {here}), {command}"
    system, machine = platform.system(), platform.machine().lower()
    if system != "Darwin" and machine not in ("x86_64", "amd64"):
        command = f"on another machine, x86_64 or macOS (this is {system} on {machine}), {command}"
    return command


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def check_whole(argument: str, value: Any, least: int, most: int | None = None) -> int:
    """Checks a whole number, of Python or NumPy.

    # Arguments
        argument: its name, such as `"members"`.
        value: the value received.
        least, most: the range; `None`: no upper end.

    # Returns
        The number as an `int`.

    # Raises
        EnsembleError: if it is none, or outside the range.
    """
    is_whole = not isinstance(value, bool) and isinstance(value, numbers.Integral)
    if not is_whole or value < least or (most is not None and value > most):
        range_ = f"from {least} on" if most is None else f"from {least} to {most}"
        raise EnsembleError(f"`{argument}` must be a whole number {range_}, got {value!r}.")
    return int(value)


def check_seed(seed: Any) -> int:
    """Checks a seed: NumPy's and Keras's global generators take the same range.

    # Raises
        EnsembleError: if it can't be one.
    """
    return check_whole("seed", seed, 0, 2**32 - 1)


def is_real(value: Any) -> bool:
    """Whether `value` is a number, of Python or NumPy, and no boolean."""
    return not isinstance(value, bool) and isinstance(value, numbers.Real)


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number, of Python or NumPy, and no boolean."""
    return is_real(value) and math.isfinite(value)
