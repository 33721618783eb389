"""Accuracy of converted ensembles by number format, by LCE's interpreter.

Compares each format with float32 on the same images. Rounding sometimes flips a sign, and a flipped
sign changes everything after it. Many images then change their class, in either direction, so a
difference of accuracies has a large standard error even if nothing is lost (+-, in points, of the
paired difference). The negative log-likelihood needs fewer images.

    python benchmarks/precision.py runs/fusion --data-dir DATA
    python benchmarks/precision.py runs/fusion runs/bagging --split test --samples 2000
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from formats import FORMATS

from larq_ensemble.cli import run_command


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--split", type=click.Choice(["validation", "test"]), default="validation")
@click.option("--samples", type=click.IntRange(1), help="The first so many images.")
@click.option("--data-dir", help="Where TensorFlow Datasets keeps its data.")
def main(runs: tuple[str, ...], split: str, samples: int | None, data_dir: str | None) -> None:
    """Print accuracy, likelihood and size of each format for each RUN and on average."""
    differences: dict[str, list[np.ndarray]] = {name: [] for name in FORMATS}
    for path in runs:
        print(f"{path}, {split} split")
        print(f"  {'':20}{'bytes':>9}{'top-1 %':>9}{'points':>16}{'NLL':>8}{'same class %':>14}")
        for name, values in _evaluate(path, split, samples, data_dir):
            differences[name].append(values)
    if len(runs) > 1:
        print(f"mean of {len(runs)} runs")
        for name in list(FORMATS)[1:]:
            each = np.stack([values.mean() for values in differences[name]])
            errors = [values.std() / np.sqrt(len(values)) for values in differences[name]]
            error = np.sqrt(np.sum(np.square(errors))) / len(runs)
            print(f"  {name:38}{100 * each.mean():+8.2f} +- {100 * error:.2f}")


def _evaluate(
    path: str, split: str, samples: int | None, data_dir: str | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Prints a line for each format and yields its name and, for each image, what it gains."""
    from larq_ensemble.convert.conversion import convert_run
    from larq_ensemble.runs import load_run
    from larq_ensemble.runtime import EnsembleInterpreter
    from larq_ensemble.trained import data_of, splits_as_trained

    run = load_run(path)
    data = getattr(splits_as_trained(run, data_of(run, None, data_dir), data_dir), split)
    images, labels = np.asarray(data.images[:samples]), data.labels[:samples]
    reference = None
    with tempfile.TemporaryDirectory() as folder:
        for name, options in FORMATS.items():
            report = convert_run(run, Path(folder, "ensemble.tflite"), **options)
            probabilities = EnsembleInterpreter(report.tflite).predict(images)
            classes = probabilities.argmax(-1)
            right = (classes == labels).astype(float)
            if reference is None:
                reference = classes, right
            gain = right - reference[1]
            error = gain.std() / np.sqrt(len(gain))
            nll = -np.log(probabilities[np.arange(len(labels)), labels] + 1e-12).mean()
            print(
                f"  {name:20}{report.bytes:>9,}{100 * right.mean():>9.2f}"
                f"{100 * gain.mean():>+8.2f} +- {100 * error:.2f}{nll:>8.4f}"
                f"{100 * (classes == reference[0]).mean():>14.2f}",
                flush=True,
            )
            yield name, gain


if __name__ == "__main__":
    run_command(main)
