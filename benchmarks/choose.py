"""Accuracy and cost of each number of members of a file, as a table and a figure.

For every m: the accuracy of the first m members on test images, the bytes of the file cut to them,
and the cost of an image, in arm64 instructions if a counter is given (see arm_cost.py), else in
members. A calibrated file also gets a point for adaptive prediction, at all its bytes and its mean
number of members.

    python benchmarks/choose.py fusion.tflite small.tflite --out choose --data-dir DATA
    python benchmarks/choose.py fusion.tflite --out choose --counter COUNTER --samples 2000
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path

import click
import numpy as np
from arm_cost import counted

from larq_ensemble.cli import run_command
from larq_ensemble.console.options import TFLITE, OutputFile
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.convert.cutting import cut_file
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.cascade import calibrated_prediction
from larq_ensemble.runtime.file import read_ensemble


@dataclass(frozen=True)
class Choice:
    """One way to run a file.

    # Arguments
        file: its name.
        members: m, or `"adaptive"`.
        mean_members: that run for an image, on average.
        bytes: of the file with these members.
        top1: in percent.
        instructions: arm64 instructions per image, on average, or `None`.
    """

    file: str
    members: int | str
    mean_members: float
    bytes: int
    top1: float
    instructions: float | None


def choices(
    path: str, images: np.ndarray, labels: np.ndarray, counts: tuple[int, int] | None
) -> Iterator[Choice]:
    """Every number of members of a file, and adaptive prediction if it was calibrated.

    # Arguments
        counts: instructions once per image and of each member, or `None`.
    """
    ensemble = EnsembleInterpreter(path)
    metadata = ensemble.metadata
    logits = ensemble.predict_logits(images)

    def choice(members: int | str, mean: float, size: int, probabilities: np.ndarray) -> Choice:
        top1 = 100 * float((probabilities.argmax(axis=-1) == labels).mean())
        cost = None if counts is None else counts[0] + mean * counts[1]
        return Choice(Path(path).stem, members, mean, size, top1, cost)

    with tempfile.TemporaryDirectory() as folder:
        for m in range(1, ensemble.max_members + 1):
            size = cut_file(path, Path(folder, f"{m}.tflite"), m).bytes
            predicted = calibrated_prediction(
                logits[:m], metadata.scheme, metadata.weights, metadata.temperatures
            )
            yield choice(m, m, size, predicted)
    if metadata.cascade is not None:
        adaptive = ensemble.predict_adaptive(images)
        yield choice(
            "adaptive", float(adaptive.members.mean()), Path(path).stat().st_size,
            adaptive.probabilities,
        )  # fmt: skip


@click.command()
@click.argument("files", nargs=-1, type=TFLITE, required=True, metavar="F.tflite|NAME...")
@click.option(
    "--out",
    type=OutputFile(".png", ".svg"),
    required=True,
    metavar="STEM",
    help="Write STEM.png and STEM.svg.",
)
@click.option("--counter", metavar="PATH", help="Counts arm64 instructions, see arm_cost.py.")
@click.option("--samples", type=click.IntRange(1), help="The first N test images  [default: all]")
@click.option("--data-dir", help="Where TensorFlow Datasets keeps its data.")
@json_option
def main(
    files: tuple[str, ...],
    out: str,
    counter: str | None,
    samples: int | None,
    data_dir: str | None,
    json_target: str | None,
) -> None:
    """Compare numbers of members of files trained on the same data set."""
    from larq_ensemble.data.datasets import DATASETS, DataOptions

    with reporting(json_target) as report:
        (name, *others) = {EnsembleInterpreter(file).metadata.dataset for file in files}
        if others or name is None:
            raise EnsembleError("The files must have been trained on one data set, which they say.")
        test = DataOptions(data_dir, limit_test=samples).load(DATASETS[name], 0).test
        found = []
        for file in files:
            counts = None if counter is None else counted(counter, read_ensemble(file), "indirect")
            for choice in choices(file, np.asarray(test.images), test.labels, counts):
                found.append(choice)
                report.line(f"{choice.file}, {choice.members}: {choice.top1:.2f} %")
        report.table(
            f"{len(test):,} test images of {name}",
            ["file", "m", "mean m", "bytes", "top-1 %", "arm64 instructions"],
            [[*asdict(choice).values()] for choice in found],
        )
        draw(found, out)
        report.result = {"choices": [asdict(choice) for choice in found]}


def draw(found: Sequence[Choice], out: str) -> None:
    """Top-1 against bytes and against cost: a line per file, a dot an m, a star for adaptive."""
    from larq_ensemble.training.plots import new_figure, save

    counted = all(choice.instructions is not None for choice in found)
    axis = {
        "bytes": ("file with m members (kB)", 1e-3),
        "instructions": ("arm64 instructions per image, on average (million)", 1e-6),
        "mean_members": ("members an image takes, on average", 1),
    }
    figure, panels = new_figure(2)
    for axes, cost in zip(panels, ("bytes", "instructions" if counted else "mean_members")):
        label, scale = axis[cost]
        for file in dict.fromkeys(choice.file for choice in found):
            of_file = [choice for choice in found if choice.file == file]
            points = [(scale * getattr(choice, cost), choice.top1) for choice in of_file]
            fixed = [choice.members != "adaptive" for choice in of_file]
            line = axes.plot(*zip(*compress(points, fixed)), marker="o", label=file)[0]
            for point, is_fixed in zip(points, fixed):
                if not is_fixed:
                    axes.plot(*point, marker="*", markersize=14, color=line.get_color())
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
    panels[0].set_ylabel("test top-1 (%)")
    panels[0].legend(loc="lower right")
    stars = "; star: adaptive" if any(choice.members == "adaptive" for choice in found) else ""
    figure.suptitle(f"The first m members of a file, m = 1, 2, ...{stars}", fontsize=11)
    save(figure, out)


if __name__ == "__main__":
    run_command(main)
