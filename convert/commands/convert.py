"""`larq-ensemble convert`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from larq_ensemble.console.options import INPUT, OutputFile
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.metadata import HEADS, LAYOUTS, PRECISIONS


@click.command("convert", short_help="One .tflite file for Larq Compute Engine.")
@click.argument("source", type=INPUT, metavar="RUN|F.keras|F.tflite")
@click.option(
    "--out", type=OutputFile(), required=True, metavar="F.tflite", help="The file to write."
)
@click.option(
    "--members",
    type=click.IntRange(1),
    metavar="m",
    help="Only the first m members  [default: all]",
)
@click.option(
    "--layout",
    type=click.Choice(["auto", *LAYOUTS]),
    default="auto",
    show_default=True,
    help="How the file holds its members; auto: subgraphs where members own binary filters, else "
    "indexed.",
)
@click.option(
    "--heads",
    type=click.Choice(HEADS),
    default="float32",
    show_default=True,
    help="Number format of the linear layer's weights; int8 has a scale for each class.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="float32",
    show_default=True,
    help="Number format of the members' other values: compact stores a few bits for each.",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    source: str,
    out: str,
    members: int | None,
    layout: str,
    heads: str,
    precision: str,
    json_target: str | None,
) -> None:
    """Convert a trained ensemble to one .tflite file, or cut such a file to its first members.

    The file takes raw pixels. It holds each shared filter once, the values that members own, and
    metadata. The run of a backbone becomes an ensemble of one member. An ensemble that Keras saved
    has to know its normalization. Cutting a file needs no TensorFlow and leaves the members that
    stay as they are.

    Before the file is written, some members' logits are compared with those of Keras on a few
    random images.

    \b
    Examples:
      larq-ensemble convert runs/fusion --out ensemble.tflite
      larq-ensemble convert runs/fusion --out small.tflite --heads int8 --precision compact
      larq-ensemble convert ensemble.keras --out ensemble.tflite
      larq-ensemble convert ensemble.tflite --members 4 --out four.tflite
    """
    with reporting(json_target) as report:
        if not os.path.lexists(source):
            raise EnsembleError(
                f"No run at {source!r}, and no file: give the directory of a run, an ensemble that "
                "Keras saved, or a .tflite file."
            )
        is_file = Path(source).is_file()
        if is_file and not _is_keras(source):
            from larq_ensemble.convert.cutting import cut_file

            converted = cut_file(source, out, _members_to_cut(context, members))
        else:
            options: Any = {"layout": layout, "heads": heads, "precision": precision}
            if is_file:
                from larq_ensemble.convert.conversion import convert_ensemble
                from larq_ensemble.ensembles import load_ensemble

                model = load_ensemble(source, compile=False)
                converted = convert_ensemble(model, out, members=members, **options)
            else:
                from larq_ensemble.runs import load_run

                run = load_run(source)
                from larq_ensemble.convert.conversion import convert_run

                converted = convert_run(run, out, members=members, **options)
        report.result = converted.to_dict()
        report.line(
            f"Wrote {out}: {converted.bytes:,} bytes, {converted.ratio:.3f} times the "
            f"lower bound of {converted.lower_bound_bytes:,} bytes, in {converted.seconds:.1f} s."
        )
        if (agreement := converted.agreement) is not None:
            report.line(
                f"On {agreement.images} random images the logits of members "
                f"{', '.join(map(str, agreement.members))} differ from those of Keras by "
                f"{max(agreement.deviation):.1g} of their length (at most {agreement.limit} "
                "passes). `larq-ensemble verify` compares classes on test images."
            )


def _is_keras(source: str) -> bool:
    """Whether a file is one that Keras saved, `.keras` (a zip archive) or HDF5."""
    with open(source, "rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"\x89HDF")


def _members_to_cut(context: click.Context, members: int | None) -> int:
    """How many members of a file stay, the only option that there is for a file."""
    for option in ("layout", "heads", "precision"):
        if context.get_parameter_source(option) is not ParameterSource.DEFAULT:
            raise click.UsageError(
                f"--{option} needs a run or a Keras file: a .tflite file can only be cut."
            )
    if members is None:
        raise click.UsageError(
            "--members is needed for a .tflite file: how many of its members stay."
        )
    return members
