"""Folders of work: locked, so that one process at a time writes a run, a search or a training.

The lock belongs to the open file `.lock` in the folder, so the system releases it when the process
ends, however it ends. It holds between the hosts of a network file system, too. Where a file system
has no locks, nothing is locked.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import (
    check_output_folder,
    leftovers,
    read_json,
    remove_leftovers,
    write_text,
)

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


@contextlib.contextmanager
def taken_over(folder: Path) -> Iterator[bool]:
    """Holds the lock that a process left in a folder when it was killed.

    # Returns
        Whether there is one. A lock that its holder releases meanwhile is none, and no new one is
        made: the folder may be about to move.
    """
    with contextlib.ExitStack() as stack:
        is_left = False
        with contextlib.suppress(OSError):  # no lock, or it is held
            file = stack.enter_context(open(folder / LOCK, "r+", encoding="utf-8"))
            if file.read():  # its holder has acquired it before
                _acquire(file)
                is_left = os.fstat(file.fileno()).st_nlink > 0
        yield is_left


def check_unlocked(folder: Path, argument: str = "out") -> None:
    """Checks that nobody holds the lock of a folder.

    # Raises
        EnsembleError: if somebody does.
    """
    if (folder / LOCK).exists():
        with locked(folder, argument):
            pass


def holds_other_files(folder: Path, files: Collection[str]) -> bool:
    """Whether a folder holds more than a lock and what writing `files` left unfinished."""
    return bool(set(folder.iterdir()) - {folder / LOCK, *leftovers(folder, files)})


@contextlib.contextmanager
def resumable(
    folder: str | os.PathLike[str],
    settings: Mapping[str, Any],
    *,
    what: str,
    file: str,
    files: Collection[str],
    way_out: str,
    argument: str = "out",
    resume: bool = True,
    newer: Collection[str] = (),
) -> Iterator[Path]:
    """Holds the lock of the folder of work that can be interrupted and resumed.

    The settings are the first file in the folder, and later they have to be the same. What a killed
    process left unfinished is removed.

    # Arguments
        folder: made if it is missing.
        settings: of the work, values of JSON.
        what: the work, for errors, such as `"search"`.
        file: the name of the file of settings.
        files: names of the files that the work writes whole or not at all, also in folders below.
        way_out: what to do if the file of settings is damaged.
        argument: that gave the folder.
        resume: whether work that has begun may be gone on with.
        newer: the settings that earlier versions did not write. Work that began without one of them
            goes on with any.

    # Returns
        The folder, with a leading `~` expanded.

    # Raises
        EnsembleError: if the folder can't be written to, is locked, or holds other files, work with
            other settings, or without `resume` any work.
    """
    path, name = check_output_folder(folder, argument), str(folder)
    path.mkdir(parents=True, exist_ok=True)
    with locked(path.absolute(), argument):  # callbacks may change the working directory
        if (path / file).is_file():
            if not resume:
                raise EnsembleError(
                    f"`{argument}` {name!r} holds a {what} already: go on with `resume=True`, or "
                    "choose another directory."
                )
            started = read_json(path / file, way_out)
            for key in {**settings, **started}:
                if key in newer and key not in started:
                    continue
                difference = first_difference(key, started.get(key), settings.get(key))
                if difference is not None:
                    setting, old, new = difference
                    raise EnsembleError(
                        f"The {what} in {name!r} can't be resumed: it was started with `{setting}` "
                        f"= {old}, not {new}. Repeat the arguments that it was started with, or "
                        f"choose another `{argument}`."
                    )
        elif holds_other_files(path, files):
            raise EnsembleError(
                f"`{argument}` {name!r} holds other files, but no {what} ({file}): choose a new or "
                f"an empty directory, or to resume a {what}, its own."
            )
        else:
            write_text(path / file, json.dumps(settings, indent=2) + "\n")
        for place in (path, *filter(Path.is_dir, path.rglob("*"))):
            remove_leftovers(place, files)
        yield path


def first_difference(name: str, old: Any, new: Any) -> tuple[str, Any, Any] | None:
    """What differs between two values of a setting: its name and both values; `None`: nothing.

    Of two objects of JSON it is one key, such as `dataset.mean`. A key that earlier versions did
    not write is `None`.
    """
    if old == new:
        return None
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return name, old, new
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            return f"{name}.{key}", old.get(key), new.get(key)
    return None


def _in_use(folder: Path, path: Path, argument: str) -> EnsembleError:
    try:
        holder = path.read_text(encoding="utf-8") or "another process"
    except OSError:
        holder = "another process"
    return EnsembleError(
        f"`{argument}` {str(folder)!r} is being written by {holder}: wait for its end, stop it, or "
        "choose another directory."
    )
