"""Other programs that are run: compilers, emulators, and what they make."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence

from larq_ensemble.errors import EnsembleError

_SECONDS = 600.0


class ProgramError(EnsembleError):
    """A program that fails.

    # Arguments
        message: what it said.
        status: its exit status; `None`: it couldn't be run, or took too long.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def run_program(
    command: Sequence[str | os.PathLike[str]],
    *,
    folder: str | os.PathLike[str] | None = None,
    seconds: float | None = None,
) -> str:
    """Runs a program, without input.

    # Arguments
        folder: where it runs; `None`: here.
        seconds: until it is killed; `None`: ten minutes.

    # Returns
        What it wrote to standard output.

    # Raises
        ProgramError: if it can't be run, fails, with what it said, or takes too long.
    """
    seconds = _SECONDS if seconds is None else seconds
    words = [os.fspath(word) for word in command]
    try:
        done = subprocess.run(
            words,
            check=False,
            text=True,
            errors="replace",
            capture_output=True,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise ProgramError(f"{shlex.join(words)} took more than {seconds:g} seconds.") from None
    except OSError as error:
        raise ProgramError(f"{words[0]} can't be run ({error.strerror}).") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise ProgramError(
            f"{shlex.join(words)} failed ({done.returncode}): {said}", done.returncode
        )
    return done.stdout
