"""Memory of sequential training: what is resident after each member, and at the peak.

Trains an ensemble member after member, one epoch each, on an untrained backbone and random images
of CIFAR-100's shape. Each M has a process of its own.

    python benchmarks/sequential_memory.py
    python benchmarks/sequential_memory.py --scheme boosting --images 50000 --width 1
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from larq_ensemble.cli import run_command
from larq_ensemble.console.options import POSITIVE, member_counts


@click.command()
@click.option("--model", "model_name", default="resnet20", show_default=True)
@click.option("--width", type=POSITIVE, default=0.25, show_default=True, help="Times the channels.")
@click.option("--scheme", default="voting", show_default=True)
@click.option("--images", type=click.IntRange(1), default=10_000, show_default=True)
@click.option(
    "--members",
    type=member_counts,
    default="2,4,6",
    show_default=True,
    help="M, with commas between.",
)
@click.option("--one", is_flag=True, hidden=True, help="Measure M in this process.")
def main(
    model_name: str, width: float, scheme: str, images: int, members: tuple[int, ...], one: bool
) -> None:
    """Measure the resident memory of sequential training for each M."""
    if one:
        print(json.dumps(_measure(model_name, width, scheme, images, members[0])))
        return
    print(f"{model_name}, width {width}, sequential {scheme}, {images} images; memory in MB")
    print("  M  peak  after each member")
    arguments = ["--model", model_name, "--width", str(width), "--scheme", scheme]
    arguments += ["--images", str(images)]
    for count in members:
        done = subprocess.run(
            [sys.executable, __file__, *arguments, "--members", str(count), "--one"],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        peak, after = json.loads(done.stdout.splitlines()[-1])
        print(f"{count:>3} {peak:5.0f}  {' '.join(f'{each:.0f}' for each in after)}", flush=True)


def _measure(
    model_name: str, width: float, scheme: str, images: int, members: int
) -> tuple[float, list[float]]:
    """Peak memory in MB, and what is resident after each member."""
    import numpy as np

    from larq_ensemble.data.datasets import DATASETS, DataOptions, Split
    from larq_ensemble.training.ensemble import train_ensemble
    from larq_ensemble.training.pretrain import pretrain
    from larq_ensemble.training.recipes import RECIPES
    from larq_ensemble.training.sequential import RunTraining

    draw = np.random.default_rng(0)

    def noise(count: int) -> Split:
        return Split(
            draw.integers(0, 256, (count, 32, 32, 3), np.uint8),
            draw.integers(0, 100, count, np.int32),
        )

    data = noise(images), noise(250)
    DATASETS._entries["cifar100"] = dataclasses.replace(
        DATASETS["cifar100"], read=lambda data_dir: data
    )
    after: list[float] = []
    train_member = RunTraining.train_member

    def measured(training: RunTraining, member: int) -> tuple[Any, dict[str, Any]]:
        result = train_member(training, member)
        after.append(_resident())
        return result

    RunTraining.train_member = measured  # type: ignore[assignment]
    options = DataOptions(validation=0.0)
    recipes = RECIPES["short"](100)
    with tempfile.TemporaryDirectory() as folder:
        backbone, _ = pretrain(
            model_name, "cifar100", Path(folder) / "backbone",
            recipe=recipes.pretrain.override(epochs=0), width=width, data=options, verbose=0,
        )  # fmt: skip
        train_ensemble(
            backbone, Path(folder) / "ensemble", members=members, scheme=scheme,
            recipe=recipes.retrain.override(epochs=1), in_turn=True, data=options, verbose=0,
        )  # fmt: skip
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, after


def _resident() -> float:
    """What is resident now, in MB (Linux)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


if __name__ == "__main__":
    run_command(main)
