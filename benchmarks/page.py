"""Tables of scripts, and the part of a page that a script writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from larq_ensemble.files import write_text


def mean_and_spread(values: Sequence[float]) -> str:
    """The mean, and the standard deviation of several values."""
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}"


def as_markdown(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """The table in Markdown."""
    text = [columns, ["---"] * len(columns), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in text)


def write_between(path: Path, begin: str, end: str, text: str) -> None:
    """Replaces what is between two lines of a page, which are comments."""
    before, rest = path.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    write_text(path, f"{before}{begin}\n\n{text}\n\n{end}{after}")
