"""Bytes of one file by number of members and number format, against the lower bound.

Converts an untrained ensemble of the most members in each format and cuts the file to fewer, which
gives the same file as converting fewer members. For comparison: the bytes of one file per member,
converted by LCE alone.

    python benchmarks/file_sizes.py
    python benchmarks/file_sizes.py --sharing c3 --members 1,10
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tempfile
from pathlib import Path

import click
from formats import FORMATS

from larq_ensemble.cli import run_command
from larq_ensemble.console.options import member_counts


@click.command()
@click.option("--model", default="resnet20", show_default=True)
@click.option("--classes", type=click.IntRange(2), default=100, show_default=True)
@click.option("--sharing", default="fusion", show_default=True)
@click.option(
    "--members",
    type=member_counts,
    default="1,2,4,8,10,32",
    show_default=True,
    help="M, commas between.",
)
def main(model: str, classes: int, sharing: str, members: tuple[int, ...]) -> None:
    """Print the table of sizes."""
    from larq_ensemble.convert.conversion import convert_ensemble
    from larq_ensemble.convert.cutting import cut_file
    from larq_ensemble.convert.frontend.single import convert_single
    from larq_ensemble.ensembles.building import build_ensemble
    from larq_ensemble.models import build_model

    backbone = build_model(model, input_shape=(32, 32, 3), classes=classes)
    ensemble = build_ensemble(backbone, members[-1], sharing=sharing)
    print(f"{model}, {classes} classes, {sharing}: bytes of the file, times the lower bound")
    heads = [*(f"M = {count}" for count in members), " a further member"]
    print(f"{'':20}" + "".join(f"{head:>17}" for head in heads))
    single = len(convert_single(backbone))
    cells = "".join(f"{single * count:>17,}" for count in members)
    print(f"{'separate files':20}{cells}{single:>17,}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        whole, part = Path(folder, "whole.tflite"), Path(folder, "part.tflite")
        for name, options in FORMATS.items():
            converted = convert_ensemble(ensemble, whole, mean=[0.5] * 3, std=[0.25] * 3, **options)
            reports = [cut_file(whole, part, count) for count in members]
            cells = "".join(f"{report.bytes:>10,} ({report.ratio:.2f})" for report in reports)
            further = (reports[-1].bytes - reports[0].bytes) / max(members[-1] - members[0], 1)
            print(f"{name:20}{cells}{further:>17,.0f}", flush=True)
            print(
                f"  {converted.layout}, M = {members[-1]} in {converted.seconds:.1f} s", flush=True
            )


if __name__ == "__main__":
    run_command(main)
