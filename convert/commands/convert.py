"""`larq-ensemble convert`."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.core import ParameterSource

from larq_ensemble.console.options import (
    INPUT,
    OutputFile,
    data_dir_option,
    dataset_option,
    normalization_option,
)
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.metadata import HEADS, LAYOUTS, PRECISIONS
from larq_ensemble.trained import is_keras_file, open_trained


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
@dataset_option
@normalization_option
@data_dir_option
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
    dataset: str | None,
    normalization: str | None,
    data_dir: str | None,
    json_target: str | None,
) -> None:
    """Convert a trained ensemble to one .tflite file, or cut such a file to its first members.

    The file takes raw pixels. It holds each shared filter once, the values that members own, and
    metadata. A backbone becomes an ensemble of one member. Of what Keras saved --dataset gives the
    names of the classes. Cutting a file needs no TensorFlow and leaves the members that stay as
    they are.

    Before the file is written, some members' logits are compared with those of Keras on a few
    random images.

    \b
    Examples:
      larq-ensemble convert runs/fusion --out ensemble.tflite
      larq-ensemble convert runs/fusion --out small.tflite --heads int8 --precision compact
      larq-ensemble convert ensemble.keras --dataset folder:photos --out ensemble.tflite
      larq-ensemble convert ensemble.tflite --members 4 --out four.tflite
    """
    with reporting(json_target) as report:
        if not os.path.lexists(source):
            raise EnsembleError(
                f"No run at {source!r}, and no file: give the directory of a run, an ensemble that "
                "Keras saved, or a .tflite file."
            )
        if Path(source).is_file() and not is_keras_file(source):
            from larq_ensemble.convert.cutting import cut_file

            converted = cut_file(source, out, _members_to_cut(context, members))
        else:
            trained = open_trained(
                source, dataset=dataset, data_dir=data_dir, normalization=normalization
            )
            from larq_ensemble.convert.conversion import convert_run

            converted = convert_run(
                trained, out, members=members, layout=layout, heads=heads, precision=precision
            )
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


def _members_to_cut(context: click.Context, members: int | None) -> int:
    """How many members of a file stay, the only option that there is for a file."""
    for option in ("layout", "heads", "precision", "dataset", "normalization", "data_dir"):
        if context.get_parameter_source(option) is not ParameterSource.DEFAULT:
            raise click.UsageError(
                f"--{option.replace('_', '-')} needs a run or a Keras file: a .tflite file can "
                "only be cut."
            )
    if members is None:
        raise click.UsageError(
            "--members is needed for a .tflite file: how many of its members stay."
        )
    return members
