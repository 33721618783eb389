"""The part of a page that a script writes."""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import write_text

write_option = click.option(
    "--write",
    "page",
    type=click.Path(path_type=Path, exists=True),
    help="Into a page, between its two lines.",
)


def mean_and_spread(values: Sequence[float], digits: int = 2) -> str:
    """The mean, and the standard deviation of several values."""
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def made_by(script: str) -> str:
    """The sentence that says by which command and when something was made.

    # Arguments
        script: its path in the repository; its arguments are those of this process.
    """
    command = shlex.join(["python", script, *sys.argv[1:]])
    return f"Made by `{command}` on {datetime.date.today()}."


def write_between(path: Path, begin: str, end: str, text: str) -> None:
    """Replaces what is between two lines of a page, which are comments.

    # Raises
        EnsembleError: if the page doesn't have each of them once, in this order.
    """
    page = path.read_text(encoding="utf-8")
    if not (page.count(begin) == page.count(end) == 1 and page.index(begin) < page.index(end)):
        raise EnsembleError(
            f"`write` {str(path)!r} needs these two lines, once, to write between:\n{begin}\n{end}"
        )
    before, rest = page.split(begin)
    _, after = rest.split(end)
    write_text(path, f"{before}{begin}\n\n{text}\n\n{end}{after}")
