"""Exported C source against the Python runtime, with maps of float32 and of float16.

Exports a file with both formats of maps, compiles each for this machine, and runs all members on
the test images of the file's training:

    python benchmarks/exported_accuracy.py ensemble.tflite --data-dir DATA
    python benchmarks/exported_accuracy.py cifar100-deploynet9-nested8 --data-dir DATA \\
        --write docs/microcontrollers.md

Rounding sometimes flips a sign, and a flipped sign changes everything after it. Many images then
change their class, in either direction. So the table has the difference of accuracies with the
standard error of the paired difference, and the share of images with the same class as by the
runtime.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import ctypes
import re
import subprocess
import tempfile
from pathlib import Path

import click
import numpy as np
from page import made_by, write_between, write_option

from larq_ensemble.cli import run_command
from larq_ensemble.console.markdown import markdown_table
from larq_ensemble.console.options import TFLITE, data_dir_option
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.convert.export import export_file
from larq_ensemble.progress import tracked
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.training.subject import Subject, subject_of

BEGIN = "<!-- exported accuracy: by benchmarks/exported_accuracy.py -->"
END = "<!-- end of exported accuracy -->"
ACTIVATIONS = ("float32", "float16")
#: No `a * b + c` in one rounding: Cortex-M's FPUs are not given any by gcc in C99 either.
FLAGS = ("-std=c99", "-O3", "-ffp-contract=off", "-fPIC", "-shared")


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
        for activations in ACTIVATIONS:
            logits = exported_logits(tflite, images, activations)
            rows += compared(subject, activations, logits, runtime, labels)
        table = markdown_table(list(rows[0]), [list(row.values()) for row in rows])
        report.markdown(table)
        if page is not None:
            said = made_by("benchmarks/exported_accuracy.py")
            write_between(page, BEGIN, END, f"{table}\n\n({len(data):,} test images. {said})")
        report.result = {"images": len(data), "rows": rows}


def exported_logits(tflite: str, images: np.ndarray, activations: str) -> np.ndarray:
    """The logits of all members by exported source on this machine, float32 `[M, n, classes]`."""
    with tempfile.TemporaryDirectory() as folder:
        export_file(tflite, folder, activations=activations)
        library = Path(folder, "ensemble.so")
        source = Path(folder, "ensemble.c")
        subprocess.run(["cc", *FLAGS, str(source), "-o", str(library), "-lm"], check=True)
        program = ctypes.CDLL(str(library))
        metadata = EnsembleInterpreter(tflite).metadata
        arena = np.zeros(_arena_bytes(source.with_suffix(".h")) // 8, np.uint64)
        logits = np.empty((metadata.members, len(images), metadata.classes), np.float32)
        for n in tracked(range(len(images)), f"{activations} maps", unit="image"):
            image = np.ascontiguousarray(images[n])
            assert program.ensemble_begin(_pointer(arena), _pointer(image)) == 0
            for member, rows in enumerate(logits):
                assert program.ensemble_member(_pointer(arena), member, _pointer(rows[n])) == 0
        return logits


def _arena_bytes(header: Path) -> int:
    found = re.search(r"^#define ENSEMBLE_ARENA_BYTES (\d+)", header.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


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
