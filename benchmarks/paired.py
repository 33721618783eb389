"""Are two networks equally accurate? Compared on the same images, image by image.

The difference of two accuracies has a smaller standard error if both are measured on the same
images: with d = 1 where only the other network is right, -1 where only the first is, and 0
elsewhere, the difference is the mean of d, and its standard error the standard deviation of d over
the root of the number of images. It is for the draw of the images, not for the seed of a training.

A NETWORK is a run, a .tflite file or the name of a trained network.

    python benchmarks/paired.py runs/plain runs/taught --split validation --data-dir DATA
    python benchmarks/paired.py runs/backbone ensemble.tflite --members 1
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import numpy as np

from larq_ensemble.cli import run_command
from larq_ensemble.console.options import INPUT
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime import EnsembleInterpreter, metrics
from larq_ensemble.runtime.file import is_tflite
from larq_ensemble.trained import open_trained
from larq_ensemble.training.commands.options import split_options
from larq_ensemble.training.subject import check_members, subject_of


@click.command()
@click.argument("first", type=INPUT, metavar="NETWORK")
@click.argument("others", type=INPUT, nargs=-1, required=True, metavar="NETWORK...")
@click.option(
    "--members", type=click.IntRange(1), metavar="M", help="The first so many  [default: all]."
)
@split_options
@json_option
def main(
    first: str,
    others: tuple[str, ...],
    members: int | None,
    split: str,
    data_dir: str | None,
    limit_test: int | None,
    json_target: str | None,
) -> None:
    """Compare each of the other networks with the first, on the same images."""
    with reporting(json_target) as report:
        (reference, labels), *rest = (
            predicted(network, members, split, data_dir, limit_test) for network in (first, *others)
        )
        rows = [compared(first, reference, reference, labels)]
        for network, (probabilities, own_labels) in zip(others, rest, strict=True):
            if not np.array_equal(own_labels, labels):
                raise EnsembleError(
                    f"{network!r} and {first!r} have other images in the split {split!r}: compare "
                    "networks of the same data, validation share and seed, or on the test split."
                )
            rows.append(compared(network, probabilities, reference, labels))
        report.table(
            f"{len(labels):,} {split} images", list(rows[0]), [[*row.values()] for row in rows]
        )
        report.result = {"images": len(labels), "split": split, "rows": rows}


def predicted(
    network: str, members: int | None, split: str, data_dir: str | None, limit: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities `[n, classes]` of the first members, and labels `[n]`."""
    opened = EnsembleInterpreter(network) if is_tflite(network) else open_trained(network)
    check_members(opened, members)
    subject = subject_of(opened, data_dir=data_dir)
    data = subject.split(split, limit)
    return subject.probabilities(subject.logits(data)[:members]), np.asarray(data.labels)


def compared(
    network: str, probabilities: np.ndarray, reference: np.ndarray, labels: np.ndarray
) -> dict[str, str | float]:
    """A row of the table: accuracies in percent, NLL in nats, the difference in points."""
    classes, expected = probabilities.argmax(axis=-1), reference.argmax(axis=-1)
    gained = 100.0 * ((classes == labels).astype(float) - (expected == labels))
    return {
        "network": network,
        "top-1 %": metrics.top_k_accuracy(probabilities, labels, k=1),
        "NLL": metrics.negative_log_likelihood(probabilities, labels),
        "difference": float(gained.mean()),
        "standard error": float(gained.std() / np.sqrt(len(labels))),
        "same class %": 100.0 * float((classes == expected).mean()),
    }


if __name__ == "__main__":
    run_command(main)
