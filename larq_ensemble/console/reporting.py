"""Output of a command: tables for people, JSON for programs."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from larq_ensemble.console.progress import showing_progress
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import write_text

#: Keras's `verbose`: a line for each epoch. `larq_ensemble.console.progress` shows the steps.
KERAS_VERBOSITY = 2

json_option = click.option(
    "--json",
    "json_target",
    metavar="FILE",
    help="Write the result as JSON to FILE; - for standard output, with nothing else on it.",
)


class Report:
    """The result of a command as data, and its printed output."""

    def __init__(self) -> None:
        self.result: dict[str, Any] = {}

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Prints a table; the first column is left-aligned, numbers are right-aligned."""
        from rich.console import Console
        from rich.table import Table

        table = Table()
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*(cell(value) for value in row))
        # Without a terminal, allow a wide table, so that logs keep every column.
        console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160)
        self.line(title)  # rich would wrap a table's title to the table's width
        console.print(table)

    def line(self, text: str) -> None:
        """Prints a line."""
        print(text, flush=True)


def cell(value: Any) -> str:
    """A value as text: `-` for `None`, two decimals (four below 1), thousands separated."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.4f}"


@contextlib.contextmanager
def reporting(json_target: str | None) -> Iterator[Report]:
    """Runs the body of a command and writes its result as JSON if it succeeds.

    With `-` all other output of the process, including that of C++ libraries, goes to standard
    error.

    # Arguments
        json_target: a file, `-` or `None`.

    # Raises
        EnsembleError: before the body runs, if the file can't be written.
    """
    report = Report()
    if json_target != "-":
        _check_target(json_target)
        with showing_progress():
            yield report
        if json_target is not None:
            write_text(json_target, _dumps(report.result))
        return
    sys.stdout.flush()
    stdout = os.dup(1)
    try:
        os.dup2(2, 1)
        with showing_progress():
            yield report
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)
    print(_dumps(report.result), end="", flush=True)


def _check_target(target: str | None) -> None:
    if target is None:
        return
    path = Path(target)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise EnsembleError(
            f"--json {target!r} can't be written: give a file in a folder that exists, or -."
        )


def _dumps(result: dict[str, Any]) -> str:
    return json.dumps(result, indent=2) + "\n"
