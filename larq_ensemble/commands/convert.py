"""`larq-ensemble convert`."""

from __future__ import annotations

import click

from larq_ensemble.metadata import LAYOUTS
from larq_ensemble.reporting import json_option, reporting


@click.command("convert", short_help="One .tflite file for Larq Compute Engine.")
@click.argument("run")
@click.option("--out", required=True, metavar="F.tflite", help="The file to write.")
@click.option(
    "--layout",
    type=click.Choice(["auto", *LAYOUTS]),
    default="auto",
    show_default=True,
    help="How the members lie in the file; auto: subgraphs where members own binary filters, else "
    "indexed.",
)
@json_option
def command(run: str, out: str, layout: str, json_target: str | None) -> None:
    """Convert a trained run to one .tflite file.

    The file takes raw pixels, holds every shared filter once and all members' own values, and
    says of itself what it is. A backbone becomes an ensemble of one.

    \b
    Examples:
      larq-ensemble convert runs/fusion --out ensemble.tflite
      larq-ensemble convert runs/fusion --out ensemble.tflite --json -
    """
    from larq_ensemble.runs import load_run

    with reporting(json_target) as report:
        loaded = load_run(run)
        from convert.conversion import convert_run

        converted = convert_run(loaded, out, layout=layout)
        report.result = converted.to_dict()
        report.line(
            f"Wrote {out}: {converted.bytes:,} bytes, {converted.ratio:.3f} times the "
            f"{converted.theory_bytes:,} bytes of theory, in {converted.seconds:.1f} s."
        )
