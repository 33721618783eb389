"""Exported C source against the Python runtime, with maps of float32 and of float16.

Compiles the C of a file for this machine, with both formats of maps, and runs all members on the
test images of the file's training:

    python benchmarks/exported_accuracy.py ensemble.tflite --data-dir DATA
    python benchmarks/exported_accuracy.py cifar100-deploynet8-nested8 --data-dir DATA \\
        --write docs/microcontrollers.md

Rounding sometimes flips a sign, and a flipped sign changes everything after it. Many images then
change their class, in either direction. So the table has the difference of accuracies with the
standard error of the paired difference, and the share of images with the same class as by the
runtime.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path

import click
import numpy as np
from page import made_by, write_between, write_option

from larq_ensemble.cli import run_command
from larq_ensemble.console.markdown import markdown_table
from larq_ensemble.console.options import TFLITE, data_dir_option
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.convert.host import exported_logits
from larq_ensemble.convert.targets.c.planning import plan_ensemble
from larq_ensemble.convert.targets.c.source import c_sources
from larq_ensemble.progress import tracked
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.file import read_ensemble
from larq_ensemble.training.subject import Subject, subject_of

BEGIN = "<!-- exported accuracy: by benchmarks/exported_accuracy.py -->"
END = "<!-- end of exported accuracy -->"
ACTIVATIONS = ("float32", "float16")
PART = 500  # images that a program runs at once; compiling it takes a second


@click.command()
@click.argument("tflite", type=TFLITE, metavar="F.tflite|NAME")
@data_dir_option
@click.option("--limit-test", type=click.IntRange(1), metavar="N", help="Only the first N images.")
@write_option
@json_option
def main(
    tflite: str,
    data_dir: str | None,
    limit_test: int | None,
    page: Path | None,
    json_target: str | None,
) -> None:
    """Compare the accuracy of exported C source with that of the file it was made of."""
    with reporting(json_target) as report:
        subject = subject_of(EnsembleInterpreter(tflite), data_dir=data_dir)
        data = subject.split("test", limit_test)
        images, labels = np.asarray(data.images), data.labels
        runtime = EnsembleInterpreter(tflite).predict_logits(images)
        rows = []
        file = read_ensemble(tflite)
        for activations in ACTIVATIONS:
            sources = c_sources(plan_ensemble(file, activations=activations), file.metadata)
            parts = [images[first : first + PART] for first in range(0, len(images), PART)]
            logits = np.concatenate(
                [
                    exported_logits(sources, file.metadata, part)
                    for part in tracked(
                        parts, f"{activations} maps", unit="image", total=len(images), size=len
                    )
                ],
                axis=1,
            )
            rows += compared(subject, activations, logits, runtime, labels)
        table = markdown_table(list(rows[0]), [list(row.values()) for row in rows])
        report.markdown(table)
        if page is not None:
            said = made_by("benchmarks/exported_accuracy.py")
            write_between(page, BEGIN, END, f"{table}\n\n({len(data):,} test images. {said})")
        report.result = {"images": len(data), "rows": rows}


def compared(
    subject: Subject,
    activations: str,
    logits: np.ndarray,
    runtime: np.ndarray,
    labels: np.ndarray,
) -> list[dict[str, str]]:
    """A row of the table for 1, half and all members."""
    rows = []
    members = len(logits)
    for count in sorted({1, max(1, members // 2), members}):
        ours, theirs = (
            subject.probabilities(each[:count]).argmax(axis=-1) for each in (logits, runtime)
        )
        gained = (ours == labels).astype(float) - (theirs == labels)
        error = gained.std() / np.sqrt(len(labels))
        rows.append(
            {
                "maps": activations,
                "members": str(count),
                "top-1 %": f"{100 * (ours == labels).mean():.2f}",
                "runtime": f"{100 * (theirs == labels).mean():.2f}",
                "difference": f"{100 * gained.mean():+.2f} ± {100 * error:.2f}",
                "same class %": f"{100 * (ours == theirs).mean():.2f}",
            }
        )
    return rows


if __name__ == "__main__":
    run_command(main)
