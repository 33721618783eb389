"""Options of the commands that run a file."""

from __future__ import annotations

import click

from larq_ensemble.runtime.backends import BACKENDS

backend_option = click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    help="What runs the file: LiteRT or Larq Compute Engine  [default: LiteRT if it is installed]",
)
