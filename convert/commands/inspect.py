"""`larq-ensemble inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from larq_ensemble.console.options import TFLITE
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.console.wording import counted

if TYPE_CHECKING:
    from larq_ensemble.convert.inspection import Inspection


@click.command("inspect", short_help="What a .tflite file holds, byte by byte.")
@click.argument("tflite", type=TFLITE, metavar="F.tflite|NAME")
@click.option(
    "--strict",
    is_flag=True,
    help="Verify the file; list everything that is wrong or can't be checked, and exit with 1.",
)
@json_option
def command(tflite: str, strict: bool, json_target: str | None) -> None:
    """Show where the bytes of a .tflite file go; needs no TensorFlow.

    \b
    Examples:
      larq-ensemble inspect ensemble.tflite
      larq-ensemble inspect ensemble.tflite --json -
      larq-ensemble inspect downloaded.tflite --strict
    """
    from larq_ensemble.convert.inspection import inspect_file, problems_of
    from larq_ensemble.errors import EnsembleError

    with reporting(json_target) as report:
        problems = problems_of(tflite) if strict else []
        for problem in problems:
            report.line(problem)
        if problems:
            raise EnsembleError(
                f"{tflite!r} has {counted(len(problems), 'problem')}: {problems[0]}. Run it only "
                "if you trust where it comes from."
            )
        inspection = inspect_file(tflite)
        report.result = {**inspection.to_dict(), **({"verified": True} if strict else {})}
        bound = {**(inspection.lower_bound or {}), "sum": inspection.lower_bound_bytes}
        report.table(
            tflite,
            ["category", "bytes", "% of file", "lower bound"],
            [
                [name.replace("_", " "), size, 100 * size / inspection.bytes, bound.get(name)]
                for name, size in [*inspection.categories.items(), ("sum", inspection.bytes)]
            ],
        )
        report.table(
            "Memory of the tensors while a graph runs, an estimate",
            ["graph", "arena, bytes"],
            _grouped(inspection.arena_bytes),
        )
        report.table("Operators", ["operator", "count"], inspection.ops.items())
        if inspection.trunk_ops:
            report.line(
                f"The trunk that members share, run once per image by the signature `prefix`: "
                f"{sum(inspection.trunk_ops.values())} of the {inspection.graph_ops} operators "
                f"from the image to logits ({', '.join(inspection.trunk_ops)})."
            )
        metadata = inspection.metadata
        if metadata is not None and metadata.get("rewrites"):
            report.table(
                "Passes that save instructions, in the graph of a member",
                ["pass", "applied"],
                [[name.replace("_", " "), n] for name, n in metadata["rewrites"].items()],
            )
        if metadata is None:
            report.line("No ensemble of this package: the file has no metadata of one.")
        else:
            report.line(
                f"{counted(metadata['members'], 'member')}, scheme {metadata['scheme']}, "
                f"{metadata['classes']} classes, input {metadata['input_shape']}, layout "
                f"{metadata['layout']}{_against_bound(inspection)}."
            )
        if inspection.binary_filters:  # a real-valued network has none
            report.line(
                f"{len(inspection.binary_filters)} different binary filters; copies of each: at "
                f"most {inspection.binary_filter_copies}."
            )
        if strict:
            report.line("Verified: every table, index, shape and operator of the file is in order.")


def _against_bound(inspection: Inspection) -> str:
    bound = inspection.lower_bound_bytes
    if not bound:
        return ""
    return f"; {inspection.bytes / bound:.3f} times the lower bound of {bound:,} bytes"


def _grouped(arena_bytes: Mapping[str, int]) -> list[tuple[str, int]]:
    """The graphs of equal size in one row: those of the members are alike."""
    graphs: dict[int, list[str]] = {}
    for name, size in arena_bytes.items():
        graphs.setdefault(size, []).append(name)
    return [
        (names[0] + (f" and {len(names) - 1} others" if names[1:] else ""), size)
        for size, names in graphs.items()
    ]
