"""Atomic writing of files: whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from larq_ensemble.errors import EnsembleError


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`, and renames it to `path` on success.

    It has the suffix of `path`, by which writers such as Keras choose a format. If the block
    raises, `path` stays as it was.

    # Raises
        EnsembleError: if the folder can't be written to.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnsembleError(
            f"Can't create the folder {str(path.parent)!r} ({error.strerror}): "
            "choose a place that can be written to."
        ) from error
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise EnsembleError(
            f"Can't write {str(path)!r} ({error.strerror or error}): choose another place."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` to `path` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: str | os.PathLike[str], rows: Sequence[Any]) -> None:
    """Writes objects of one dataclass as CSV, a column for each field.

    # Arguments
        path: the file, written whole or not at all.
        rows: at least one object.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(rows[0])], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, rows))
    write_text(path, text.getvalue())


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
    except ValueError as error:
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


#: Endings of the files that commands write: a directory of such a name is a mistake.
_FILES = (".csv", ".h5", ".json", ".keras", ".npz", ".png", ".svg", ".tflite", ".zip")


def usable_directory(path: str | os.PathLike[str], argument: str = "out") -> Path:
    """Checks that a directory can be created or is one that can be written to; writes nothing.

    # Returns
        The path, with a leading `~` expanded.

    # Raises
        EnsembleError: for a file, the name of one, or a place that can't be written to.
    """
    path = Path(path).expanduser()
    try:
        if path.is_dir():
            place = path
        elif path.exists():
            raise EnsembleError(f"`{argument}` {str(path)!r} is a file: choose a new directory.")
        elif path.suffix.lower() in _FILES:
            raise EnsembleError(
                f"`{argument}` {str(path)!r} is the name of a file: give that of a directory."
            )
        else:
            place = next(folder for folder in path.absolute().parents if folder.exists())
        writable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    except OSError as error:  # such as a name that is too long
        raise EnsembleError(
            f"`{argument}` {str(path)!r} can't be used ({error.strerror}): choose another "
            "directory."
        ) from error
    if not writable:
        raise EnsembleError(
            f"`{argument}` {str(path)!r} can't be written to: {str(place)!r} "
            f"{'is write-protected' if place.is_dir() else 'is a file'}. Choose another directory."
        )
    return path
