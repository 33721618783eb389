"""Outputs: files that are whole or what they were before, and checks before the work.

A regular file is replaced by a rename in its own folder, with its mode and owner; a symbolic link
stays, and the file that it names is replaced. Devices, named pipes and open files such as
/dev/stdout are written to.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from larq_ensemble.errors import EnsembleError, first_line

_OPEN_FILE = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")
_STEM = 50  # characters of a temporary file's name, so that it isn't too long for any name


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields the path of an empty temporary file, and puts the file at `path` on success.

    It has the suffix of `path`, by which writers such as Keras choose a format. If the block
    raises, `path` stays as it was. Missing folders are made.

    # Raises
        EnsembleError: if `path` can't be written.
    """
    path = temporary = Path(path)
    with contextlib.ExitStack() as stack:
        try:
            present = _status(path)
            if present is None:  # the folder of what a link names, too
                _make_folder(Path(os.path.realpath(path)).parent)
            if present is not None and _is_written_through(path, present):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                temporary = folder / path.name
                yield temporary
                _write_through(temporary, path)
            else:
                target = Path(os.path.realpath(path))
                temporary = _new_beside(target, present)
                stack.callback(temporary.unlink, missing_ok=True)
                yield temporary
                _rename(temporary, target)
        except OSError as error:
            raise EnsembleError(
                f"Can't write {str(path)!r} ({_reason(error, temporary, path)}): "
                "choose another place."
            ) from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` to `path` as UTF-8, as `replacing` does."""
    with replacing(path) as temporary:
        # File names that are no UTF-8 stay the bytes that they are.
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path`, as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def cache_folder() -> Path:
    """The folder of what is made or downloaded once: `$XDG_CACHE_HOME/larq-ensemble`.

    # Raises
        EnsembleError: if the user has no home.
    """
    home = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(home) if os.path.isabs(home) else Path.home() / ".cache"
    except RuntimeError as error:  # a user without a home, as in some containers
        raise EnsembleError(
            f"There is no folder ~/.cache ({error}): set XDG_CACHE_HOME."
        ) from error
    return base / "larq-ensemble"


def user_path(path: str | os.PathLike[str]) -> Path:
    """The path, with a leading `~` or `~user` expanded unless there is no such home."""
    return Path(os.path.expanduser(path))


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def write_csv(path: str | os.PathLike[str], rows: Sequence[Any]) -> None:
    """Writes objects of one dataclass as CSV, a column for each field.

    # Arguments
        path: the file, written as `replacing` does.
        rows: at least one object.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(rows[0])], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, rows))
    write_text(path, text.getvalue())


def check_output(path: str | os.PathLike[str], argument: str = "path") -> None:
    """Raises if no file can be written at `path`: call it before the work.

    # Arguments
        path: a file, there already or not; folders may be missing.
        argument: the name of the argument in the error.

    # Raises
        EnsembleError: if `path` is a folder, write-protected, in a place that can't be written, or
            what a run needs.
    """
    if reason := obstacle(path):
        raise EnsembleError(
            f"`{argument}` {os.fspath(path)!r} can't be written ({reason}): "
            "give the name of a file in another place."
        )


def obstacle(path: str | os.PathLike[str]) -> str | None:
    """What keeps a file from being written at `path`, in words; `None`: nothing."""
    name, path = os.fspath(path), Path(path)
    if not name:
        return "the name is empty"
    try:
        if name.endswith(os.sep) or path.is_dir():
            return "it is a directory"
        present = _status(path)
        if present is not None and not os.access(path, os.W_OK):
            return "it is write-protected"
        if path.name in _OF_RUNS and is_run(path.parent):
            return f"it is the {_OF_RUNS[path.name]} of a run"
        if present is None or not _is_written_through(path, present):
            _check_can_create(Path(os.path.realpath(path)).parent)
    except OSError as error:
        return _reason(error)
    return None


#: Files without which a run is lost.
_OF_RUNS = {"config.json": "configuration", "model.keras": "network"}
#: Endings of the files that commands write: a folder of such a name is a mistake.
_FILES = (".c", ".csv", ".h", ".h5", ".json", ".keras", ".npz", ".png", ".svg", ".tflite", ".zip")


def check_output_folder(path: str | os.PathLike[str], argument: str = "out") -> Path:
    """Raises if no files can be written into the folder `path`: call it before the work.

    # Arguments
        path: a folder, there already or not.
        argument: the name of the argument in the error.

    # Returns
        The path, with a leading `~` expanded.

    # Raises
        EnsembleError: if `path` is a file, the name of one, or in a place that can't be written.
    """
    name, path = os.fspath(path), user_path(path)
    if not name:
        raise EnsembleError(f"`{argument}` is empty: give the name of a folder.")
    try:
        is_folder = path.is_dir()
        if path.exists() and not is_folder:
            raise EnsembleError(f"`{argument}` {name!r} is a file: give the name of a folder.")
        if path.suffix.lower() in _FILES and not is_folder:
            raise EnsembleError(
                f"`{argument}` {name!r} is the name of a file: give the name of a folder."
            )
        _check_can_create(Path(os.path.realpath(path)))
    except OSError as error:
        raise EnsembleError(
            f"`{argument}` {name!r} can't be written ({_reason(error)}): choose another place."
        ) from error
    return path


def gone(folder: str | os.PathLike[str]) -> EnsembleError:
    """The error for a folder that was there when a training began to write into it."""
    return EnsembleError(
        f"The directory {os.fspath(folder)!r} is gone: it was deleted or moved while it was "
        "written. Train again, or resume the training where it is now."
    )


def is_same_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two paths name one file, there already or not."""
    return os.path.realpath(one) == os.path.realpath(other)


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a directory holds the configuration of a run."""
    # `Path.is_file` raises for a name that is too long.
    return os.path.isfile(user_path(path) / "config.json")


def is_other_than_json(path: str | os.PathLike[str]) -> bool:
    """Whether a file at `path`, which would be replaced, is not empty and no JSON."""
    path = Path(path)
    if not path.is_file() or _open_file(path) is not None:
        return False
    content = path.read_bytes()
    try:
        json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return bool(content)
    return False


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_written_through(path: Path, present: os.stat_result) -> bool:
    """Whether `path` can't be replaced: it is no regular file, is open, or its folder is closed."""
    return (
        not stat.S_ISREG(present.st_mode)
        or _open_file(path) is not None
        or not os.access(os.path.dirname(os.path.realpath(path)), os.W_OK)
    )


def _open_file(path: Path) -> int | None:
    """The descriptor that `path` names, as /dev/stdout and /dev/fd/63 do."""
    name = os.path.abspath(path)
    for _ in range(40):  # links, as many as Linux follows
        if match := _OPEN_FILE.fullmatch(name):
            return int(match[1])
        if not os.path.islink(name):
            break
        name = os.path.normpath(os.path.join(os.path.dirname(name), os.readlink(name)))
    return None


def _write_through(temporary: Path, path: Path) -> None:
    descriptor = _open_file(path)
    target = path if descriptor is None else os.dup(descriptor)
    with open(temporary, "rb") as source, open(target, "wb") as sink:
        shutil.copyfileobj(source, sink)


def _new_beside(target: Path, present: os.stat_result | None) -> Path:
    """An empty file beside `target`, with the mode and owner of the file that it will replace."""
    temporary = target.with_name(
        f".{target.stem[:_STEM]}-{secrets.token_hex(4)}{target.suffix[:_STEM]}"
    )
    if present is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "it is write-protected")
    mode = 0o666 if present is None else 0o600  # of a new file, less the umask
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
    if present is not None:
        if hasattr(os, "chown"):
            for owner in ((present.st_uid, -1), (-1, present.st_gid)):
                with contextlib.suppress(PermissionError):  # only root gives files away
                    os.chown(temporary, *owner)
        os.chmod(temporary, stat.S_IMODE(present.st_mode))
    return temporary


def _rename(temporary: Path, target: Path) -> None:
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    try:
        os.replace(temporary, target)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        _write_through(temporary, target)  # a file that is a mount point, as in containers
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a rename last through a power cut, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnsembleError(
            f"Can't create the folder {str(folder)!r} ({error.strerror}): "
            "choose a place that can be written to."
        ) from error


def _check_can_create(folder: Path) -> None:
    """Makes a file in `folder`, or in the folder where its first missing part will be made.

    Only trying tells: modes say nothing about a read-only disk, or to root.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{str(folder)!r} is no folder")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileNotFoundError:  # in /proc
        raise PermissionError(errno.EACCES, f"no file can be made in {str(folder)!r}") from None
    except OSError as error:
        raise OSError(error.errno, f"{str(folder)!r}: {error.strerror}") from None


def _reason(error: OSError, temporary: Path = Path(), path: Path = Path()) -> str:
    """What went wrong, with the name that the user knows: HDF5 names the file that it opened."""
    return (error.strerror or first_line(error)).replace(str(temporary), str(path))


def read_json(path: str | os.PathLike[str], way_out: str) -> dict[str, Any]:
    """Reads a JSON object.

    # Arguments
        path: the file.
        way_out: what to do if it is damaged, for the error, such as `"train again"`.

    # Raises
        EnsembleError: if it is missing, no JSON or no object.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise EnsembleError(
            f"{str(path)!r} can't be read ({error.strerror or error}): {way_out}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise EnsembleError(
            f"{str(path)!r} is not JSON ({error}): it is truncated or damaged: {way_out}."
        ) from error
    if not isinstance(values, dict):
        raise EnsembleError(
            f"{str(path)!r} holds {type(values).__name__}, not an object: it is damaged: {way_out}."
        )
    return values


def leftovers(folder: Path, names: Iterable[str]) -> list[Path]:
    """The temporary files that `replacing` left in a folder because its process was killed.

    # Arguments
        folder: the folder.
        names: of the files that were to be written, such as `"config.json"`.
    """
    temporary = [
        re.compile(rf"\.{re.escape(name.stem)}-[0-9a-f]{{8}}{re.escape(name.suffix)}")
        for name in map(Path, names)
    ]
    return [
        path
        for path in folder.iterdir()
        if any(pattern.fullmatch(path.name) for pattern in temporary)
    ]


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Removes `leftovers`; only the holder of the folder's lock may do so."""
    for path in leftovers(folder, names):
        path.unlink(missing_ok=True)
