"""Atomic writing of files: whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import secrets
from collections.abc import Iterator, Sequence
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
