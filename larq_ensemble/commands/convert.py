"""`larq-ensemble convert`."""

from __future__ import annotations

import click

from larq_ensemble.metadata import HEADS, LAYOUTS, PRECISIONS
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
@click.option(
    "--heads",
    type=click.Choice(HEADS),
    default="float32",
    show_default=True,
    help="Numbers of the linear layer's weights; int8 has a scale for each class.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="float32",
    show_default=True,
    help="Of the members' other values: compact stores a few bits for each.",
)
@json_option
def command(
    run: str, out: str, layout: str, heads: str, precision: str, json_target: str | None
) -> None:
    """Convert a trained run to one .tflite file.

    The file takes raw pixels, holds every shared filter once and all members' own values, and
    says of itself what it is. A backbone becomes an ensemble of one.

    \b
    Examples:
      larq-ensemble convert runs/fusion --out ensemble.tflite
      larq-ensemble convert runs/fusion --out small.tflite --heads int8 --precision compact
    """
    from larq_ensemble.runs import load_run

    with reporting(json_target) as report:
        loaded = load_run(run)
        from convert.conversion import convert_run

        converted = convert_run(loaded, out, layout=layout, heads=heads, precision=precision)
        report.result = converted.to_dict()
        report.line(
            f"Wrote {out}: {converted.bytes:,} bytes, {converted.ratio:.3f} times the "
            f"{converted.theory_bytes:,} bytes of theory, in {converted.seconds:.1f} s."
        )
