"""Images of one's own as arrays on disk, made once.

They are in `$XDG_CACHE_HOME/larq-ensemble`, or `~/.cache/larq-ensemble`, a folder for each data set
and size of images. It may be deleted at any time: what is needed is made again.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from larq_ensemble import files
from larq_ensemble.data.digests import fingerprint
from larq_ensemble.data.splits import ImageArray
from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.locks import locked, taken_over

_IMAGES, _COLUMNS = "images.raw", "columns.npz"
#: Of what is written: it changes with the files' layout and with what decoding gives.
_VERSION = 1
#: To put an entry in its place, while other processes do so.
_ATTEMPTS = 5


#: Bytes of images that need no file.
IN_MEMORY = 1 << 28


class NoRoomError(EnsembleError):
    """The cache can't be written."""


@dataclass(frozen=True)
class Cached:
    """An entry of the cache.

    # Arguments
        images: uint8 [n, h, w, c], memory-mapped.
        columns: other arrays, such as labels.
    """

    images: ImageArray
    columns: Mapping[str, np.ndarray]


#: Images uint8 [k, h, w, c] and arrays [m], of which the entry has the concatenation.
Chunk = tuple[np.ndarray, Mapping[str, np.ndarray]]


def cache_folder() -> Path:
    """The folder of the cache.

    # Raises
        NoRoomError: if the user has no home.
    """
    try:
        return files.cache_folder()
    except EnsembleError as error:
        raise NoRoomError(str(error)) from error


def entry_name(label: str, *identity: object) -> str:
    """A name for an entry that people recognize, different for each identity."""
    return f"{re.sub('[^A-Za-z0-9]+', '-', label)[:50]}-{fingerprint(*identity)[:16]}"


def cached(name: str, key: str, size: int, chunks: Callable[[], Iterable[Chunk]]) -> Cached:
    """An entry of the cache, which is made if it isn't there, is damaged or has another key.

    It appears whole or not at all: a killed process leaves a folder that the next one removes.

    # Arguments
        name: of the entry.
        key: of its contents.
        size: of the images, in bytes, if it is known, else 0.
        chunks: reads the images.

    # Raises
        NoRoomError: if it can't be written.
        EnsembleError: what `chunks` raises.
    """
    folder, key = cache_folder(), f"{_VERSION} {key}"
    found = _read(folder / name, key)
    if found is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder, name)
        _check_room(folder, size)
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder))
    except OSError as error:
        raise _no_room(folder, first_line(error)) from error
    try:
        with locked(temporary):
            _write(temporary, key, chunks())
        found = _put(temporary, folder / name, key)
    except OSError as error:
        raise _no_room(folder, first_line(error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if found is None:
        raise _no_room(folder, "what was written there is gone")
    return found


def discard(name: str) -> None:
    """Removes an entry of the cache, which other processes may still have open."""
    _discard(cache_folder() / name)


def gathered(chunks: Iterable[np.ndarray]) -> np.ndarray:
    """Chunks of images as one array: in memory, or from a certain size on in a file without a name.

    # Arguments
        chunks: uint8 [k, h, w, c] each, at least one.

    # Raises
        NoRoomError: if the file can't be written.
    """
    chunks, some, size = iter(chunks), [], 0
    for chunk in chunks:
        some.append(chunk)
        size += chunk.nbytes
        if size > IN_MEMORY:
            return _in_a_file(itertools.chain(some, chunks))
    return np.concatenate(some)


def _in_a_file(chunks: Iterable[np.ndarray]) -> np.ndarray:
    """A memory map of a file that is gone with it, however the process ends."""
    folder = cache_folder()
    count = 0
    shape: tuple[int, ...] = ()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            for chunk in chunks:
                file.write(np.ascontiguousarray(chunk).data)
                count, shape = count + len(chunk), chunk.shape[1:]
            file.flush()
            return np.memmap(file, np.uint8, "r", shape=(count, *shape))
    except OSError as error:
        raise _no_room(folder, first_line(error)) from error


def _read(path: Path, key: str) -> Cached | None:
    """The entry at `path`; `None` if there is none, or it is damaged or of another key."""
    try:
        with np.load(path / _COLUMNS) as file:
            columns = {name: file[name] for name in file}
        if str(columns.pop("_key")) != key:
            return None
        shape = tuple(columns.pop("_shape").tolist())
        if (path / _IMAGES).stat().st_size != int(np.prod(shape)):
            return None
        images = (
            np.memmap(path / _IMAGES, np.uint8, "r", shape=shape)
            if all(shape)
            else np.empty(shape, np.uint8)
        )
    except Exception:  # zip and NumPy raise errors of many types for damaged files
        return None
    return Cached(images, columns)


def _write(folder: Path, key: str, chunks: Iterable[Chunk]) -> None:
    columns: dict[str, list[np.ndarray]] = {}
    count = 0
    shape: tuple[int, ...] = (0, 0, 0)
    with open(folder / _IMAGES, "wb") as file:
        for images, others in chunks:
            file.write(np.ascontiguousarray(images).data)
            count, shape = count + len(images), images.shape[1:]
            for name, values in others.items():
                columns.setdefault(name, []).append(values)
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    np.savez(folder / _COLUMNS, _key=np.array(key), _shape=np.array((count, *shape)), **joined)


def _put(temporary: Path, path: Path, key: str) -> Cached | None:
    """Puts what was written in its place, and reads it.

    What another process has put there meanwhile stays if it has the key. Anything else is replaced;
    readers may still have it open.
    """
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(OSError):  # of a folder that is not empty
            os.rename(temporary, path)
        found = _read(path, key)
        if found is not None:
            return found
        _discard(path)
    return None


def _discard(path: Path) -> None:
    with (
        contextlib.suppress(OSError),  # it is gone
        tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as old,
    ):
        os.rename(path, Path(old) / "old")


def _remove_leftovers(folder: Path, name: str) -> None:
    for path in folder.glob(f".{name}-*"):
        with taken_over(path) as is_left:
            if is_left:
                shutil.rmtree(path, ignore_errors=True)


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > 0.95 * free:
        raise _no_room(folder, f"{size / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")


def _no_room(folder: Path, reason: str) -> NoRoomError:
    return NoRoomError(
        f"The images can't be cached in {str(folder)!r} ({reason}): make room there, or set the "
        "environment variable XDG_CACHE_HOME to another folder."
    )
