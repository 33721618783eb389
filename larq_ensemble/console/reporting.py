"""Output of a command: tables for people, JSON for programs."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from larq_ensemble.console.options import UserPath
from larq_ensemble.console.progress import showing_progress
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import is_other_than_json, is_same_file, obstacle, write_text

#: Keras's `verbose`: a line for each epoch. `larq_ensemble.console.progress` shows the steps.
KERAS_VERBOSITY = 2

json_option = click.option(
    "--json",
    "json_target",
    type=UserPath(),
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
        from rich.text import Text

        def text(value: Any) -> Text:  # of a `str`, rich would take brackets for markup
            return Text(visible(cell(value)))

        table = Table()
        for index, column in enumerate(columns):
            table.add_column(
                text(column), justify="left" if index == 0 else "right", overflow="fold"
            )
        for row in rows:
            table.add_row(*map(text, row))
        # Off the terminal a row is a line, whatever its width, for `grep` and logs.
        console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _NO_LIMIT)
        self.line(title)  # rich would wrap a table's title to the table's width
        console.print(table)

    def markdown(self, text: str) -> None:
        """Prints Markdown: laid out on a terminal, elsewhere as it is."""
        if not sys.stdout.isatty():
            print(text, end="", flush=True)
            return
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))

    def line(self, text: str) -> None:
        """Prints a line."""
        print(visible(text), flush=True)


_NO_LIMIT = 100_000
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    """Text on one line with its control characters escaped, as in `repr`.

    Names of files and classes come from anywhere: a terminal must not obey them.
    """
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


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

    Numbers that are not finite become null: JSON has none.

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
    """Raises if the result can't be written to `target`, or would replace what is read."""
    if target is None:
        return
    reason = obstacle(target) or _other_use(target)
    if reason is None and is_other_than_json(target):
        reason = "it is there already, and no JSON that could be replaced"
    if not Path(target).parent.is_dir():
        reason = "its folder is missing"
    if reason is not None:
        raise EnsembleError(
            f"--json {target!r} can't be written ({reason}): "
            "give another file in a folder that exists, or -."
        )


def _other_use(target: str) -> str | None:
    """Which other file of the running command `target` is."""
    context = click.get_current_context(silent=True)
    if context is None:
        return None
    for parameter in context.command.params:
        if isinstance(parameter.type, click.Path) and parameter.name != "json_target":
            values = context.params.get(parameter.name or "") or ()
            for value in (values,) if isinstance(values, (str, os.PathLike)) else values:
                if is_same_file(target, value):
                    name = parameter.opts[0] if isinstance(parameter, click.Option) else value
                    return f"it is the file of {name}"
    return None


def _dumps(result: dict[str, Any]) -> str:
    return json.dumps(_finite(result), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """The value with `None` for each number that JSON has not: nan and the infinities."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
