"""Locks of folders: one process at a time writes a run, a search or a training.

The lock belongs to the open file `.lock` in the folder, so the system releases it when the process
ends, however it ends. It holds between the hosts of a network file system, too. Where a file system
has no locks, nothing is locked.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from larq_ensemble.errors import EnsembleError

LOCK = ".lock"

if sys.platform == "win32":
    import msvcrt

    def _acquire(file: IO[str]) -> None:
        file.seek(1 << 30)  # of what is locked there, other processes can't even read
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error

else:
    import fcntl

    def _acquire(file: IO[str]) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks
            return


@contextlib.contextmanager
def locked(folder: Path, argument: str = "out") -> Iterator[None]:
    """Holds the lock of an existing folder.

    # Arguments
        folder: the folder.
        argument: that gave it, for the error.

    # Raises
        EnsembleError: if another process, or this one, holds it, or the folder can't be written to.
    """
    path = folder / LOCK
    with contextlib.ExitStack() as stack:
        while True:
            try:
                file = stack.enter_context(open(path, "a+", encoding="utf-8"))
                _acquire(file)
                if os.fstat(file.fileno()).st_nlink:
                    break
                # Its holder has just released and removed it: try the next one.
            except BlockingIOError:
                raise _in_use(folder, path, argument) from None
            except OSError as error:
                raise EnsembleError(
                    f"`{argument}` {str(folder)!r} can't be written to "
                    f"({error.strerror or error}): choose another directory."
                ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # such as a folder that is gone
                path.unlink()


def check_unlocked(folder: Path, argument: str = "out") -> None:
    """Checks that nobody holds the lock of a folder.

    # Raises
        EnsembleError: if somebody does.
    """
    if (folder / LOCK).exists():
        with locked(folder, argument):
            pass


def _in_use(folder: Path, path: Path, argument: str) -> EnsembleError:
    try:
        holder = path.read_text(encoding="utf-8") or "another process"
    except OSError:
        holder = "another process"
    return EnsembleError(
        f"`{argument}` {str(folder)!r} is being written by {holder}: wait for its end, stop it, or "
        "choose another directory."
    )
