"""The part of a page that a script writes, between two lines of comment."""

from __future__ import annotations

from pathlib import Path

from larq_ensemble.files import write_text


def write_between(path: Path, begin: str, end: str, text: str) -> None:
    """Replaces what is between two lines of a page."""
    before, rest = path.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    write_text(path, f"{before}{begin}\n\n{text}\n\n{end}{after}")
