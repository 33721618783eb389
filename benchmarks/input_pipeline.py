"""The share of a training step that is spent waiting for data.

Trains one network in alternation on the real pipeline (shuffled, augmented, normalized batches) and
on one batch that is kept in memory. Both are in one process, so that other load on the machine
falls on both alike. The share is 1 - (repeated batch) / (pipeline), in seconds per step. Making a
batch on the same cores counts as waiting, too.

    python benchmarks/input_pipeline.py
    python benchmarks/input_pipeline.py --data-dir ~/tensorflow_datasets --repetitions 9
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import click
import numpy as np

from larq_ensemble.cli import run_command
from larq_ensemble.data.datasets import DATASETS, Dataset, Split
from larq_ensemble.keras import keras, tf
from larq_ensemble.models import build_model
from larq_ensemble.training.pipeline import training_batches

# Untimed steps: more than are prefetched while the other kind of step is measured.
LEAD_IN = 8


@click.command()
@click.option("--model", "model_name", default="resnet20", show_default=True)
@click.option(
    "--dataset", "dataset_name", default="cifar100", show_default=True, help="Sizes, augmentation."
)
@click.option(
    "--data-dir", metavar="DIR", help="Use its real images  [default: 50,000 random ones]"
)
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True)
@click.option(
    "--steps", type=click.IntRange(1), default=20, show_default=True, help="Timed, of each kind."
)
@click.option("--repetitions", type=click.IntRange(1), default=5, show_default=True)
def main(
    model_name: str,
    dataset_name: str,
    data_dir: str | None,
    batch_size: int,
    steps: int,
    repetitions: int,
) -> None:
    """Measure the share of a training step that is spent waiting for data."""
    dataset = DATASETS[dataset_name]
    data = _random_images(dataset) if data_dir is None else dataset.read(data_dir)[0]
    stream = training_batches(
        data, dataset, batch_size=batch_size, epochs=np.iinfo(np.int32).max
    ).stream
    pipeline = iter(stream)
    repeated = iter(tf.data.Dataset.from_tensors(next(pipeline)).cache().repeat())

    alone = batch_size * steps / _seconds(partial(next, pipeline), steps, LEAD_IN)
    print(f"pipeline alone: {alone:,.0f} images/s", flush=True)

    step = _training_step(model_name, dataset)
    seconds: dict[str, list[float]] = {"pipeline": [], "repeated batch": []}
    for repetition in range(repetitions):
        for name, batches in (("pipeline", pipeline), ("repeated batch", repeated)):
            seconds[name].append(_seconds(partial(step, batches), steps, LEAD_IN))
        real, cached = (values[-1] for values in seconds.values())
        print(
            f"{repetition + 1}/{repetitions}: images/s training on the pipeline "
            f"{batch_size * steps / real:,.0f}, on a repeated batch "
            f"{batch_size * steps / cached:,.0f}, waiting {100 * (1 - cached / real):.1f} %",
            flush=True,
        )
    waiting = [1 - cached / real for real, cached in zip(*seconds.values())]
    for name, values in seconds.items():
        rate = batch_size * steps / statistics.median(values)
        print(f"training on the {name}: {rate:,.0f} images/s (median)")
    print(
        f"share of a step spent waiting for data: {100 * statistics.median(waiting):.1f} % "
        f"(median; {100 * min(waiting):.1f} to {100 * max(waiting):.1f} %)"
    )


def _random_images(dataset: Dataset, count: int = 50_000) -> Split:
    generator = np.random.default_rng(0)
    return Split(
        generator.integers(0, 256, (count, *dataset.input_shape), dtype=np.uint8),
        generator.integers(0, dataset.classes, count, dtype=np.int32),
    )


def _training_step(model_name: str, dataset: Dataset) -> Callable[[Iterator[Any]], float]:
    model = build_model(model_name, input_shape=dataset.input_shape, classes=dataset.classes)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    train = model.make_train_function()

    def step(batches: Iterator[Any]) -> float:
        # Reading the loss waits until the step is done.
        return float(train(batches)["loss"])

    return step


def _seconds(run: Callable[[], Any], times: int, untimed: int) -> float:
    for _ in range(untimed):
        run()
    started = time.perf_counter()
    for _ in range(times):
        run()
    return time.perf_counter() - started


if __name__ == "__main__":
    run_command(main)
