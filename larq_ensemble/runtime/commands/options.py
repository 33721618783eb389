"""Options of the commands that run a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from larq_ensemble.runtime.backends import BACKENDS


def _option(default: str) -> Callable[[Any], Any]:
    what = f"What runs the file: LiteRT or Larq Compute Engine  [default: {default}]"
    return click.option("--backend", type=click.Choice(BACKENDS), help=what)


#: Of commands that run a file on one back end.
backend_option = _option("LiteRT if it is installed")
#: Of commands that compare back ends.
compared_backends_option = _option("all that are installed")
