"""The share of a training step that is spent waiting for data.

Trains one network in alternation on the real pipeline (shuffled, augmented, normalized batches) and
on one batch that is kept in memory. Both are in one process, so that other load on the machine
falls on both alike. The share is 1 - (repeated batch) / (pipeline), in seconds per step. Making a
batch on the same cores counts as waiting, too. On a busy machine look at the processor time: that
of making a batch beside that of a step.

The images are in memory, or photos: JPEG files of 500x400 pixels that are drawn for this, decoded
once into the cache as `--dataset folder:DIR` does, or at each access as where the disk has no room.

    python benchmarks/input_pipeline.py
    python benchmarks/input_pipeline.py --data-dir ~/tensorflow_datasets --repetitions 9
    python benchmarks/input_pipeline.py --images cache --image-size 64 --augment rand
    python benchmarks/input_pipeline.py --images files --image-size 128 --model deploynet9
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from larq_ensemble.cli import run_command
from larq_ensemble.data.datasets import DATASETS, Dataset, Split
from larq_ensemble.data.encoded import ImageFiles
from larq_ensemble.data.opening import open_dataset
from larq_ensemble.data.options import ImageOptions
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
@click.option(
    "--images",
    type=click.Choice(["memory", "cache", "files"]),
    default="memory",
    show_default=True,
    help="cache, files: photos, in place of --dataset.",
)
@click.option("--photos", type=click.IntRange(20), default=2000, show_default=True)
@click.option(
    "--image-size",
    type=click.IntRange(8),
    default=64,
    show_default=True,
    help="Height and width that photos get.",
)
@click.option("--augment", help="none, flip, crop, rand or mix  [default: the data set's]")
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True)
@click.option(
    "--steps", type=click.IntRange(1), default=20, show_default=True, help="Timed, of each kind."
)
@click.option("--repetitions", type=click.IntRange(1), default=5, show_default=True)
def main(
    model_name: str,
    dataset_name: str,
    data_dir: str | None,
    images: str,
    photos: int,
    image_size: int,
    augment: str | None,
    batch_size: int,
    steps: int,
    repetitions: int,
) -> float:
    """Measure the share of a training step that is spent waiting for data."""
    with tempfile.TemporaryDirectory() as folder:
        if images == "memory":
            dataset = DATASETS[dataset_name]
            data = _random_images(dataset) if data_dir is None else dataset.read(data_dir)[0]
        else:
            dataset, data = _photos(Path(folder), photos, image_size, cached=images == "cache")
        dataset = dataset.augmented(augment)
        return _measure(model_name, dataset, data, batch_size, steps, repetitions)


def _measure(
    model_name: str, dataset: Dataset, data: Split, batch_size: int, steps: int, repetitions: int
) -> float:
    stream = training_batches(
        data, dataset, batch_size=batch_size, epochs=np.iinfo(np.int32).max
    ).stream
    pipeline = iter(stream)
    repeated = iter(tf.data.Dataset.from_tensors(next(pipeline)).cache().repeat())

    seconds_alone, making = _seconds(partial(next, pipeline), steps, LEAD_IN)
    print(f"pipeline alone: {batch_size * steps / seconds_alone:,.0f} images/s", flush=True)

    step, processor = _training_step(model_name, dataset), []
    seconds: dict[str, list[float]] = {"pipeline": [], "repeated batch": []}
    for repetition in range(repetitions):
        for name, batches in (("pipeline", pipeline), ("repeated batch", repeated)):
            took, computed = _seconds(partial(step, batches), steps, LEAD_IN)
            seconds[name].append(took)
            processor += [computed] if batches is repeated else []
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
    print(
        f"processor time of making a batch: {1e3 * making / steps:.0f} ms, "
        f"{100 * making / statistics.median(processor):.1f} % of a training step's"
    )
    return statistics.median(waiting)


def _photos(folder: Path, count: int, size: int, *, cached: bool) -> tuple[Dataset, Split]:
    """A data set of JPEG files of ten classes, and its training split."""
    random = np.random.default_rng(0)
    paths = [folder / "photos" / f"class_{n % 10}" / f"{n:05}.jpg" for n in range(count)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        _photo(random).save(path, quality=90)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    started = time.perf_counter()
    dataset = open_dataset(
        f"folder:{folder / 'photos'}", images=ImageOptions(image_size=(size, size))
    )
    seconds = time.perf_counter() - started
    print(
        f"{count:,} photos, {statistics.mean(path.stat().st_size for path in paths) / 1e3:.0f} kB "
        f"each: read into the cache in {seconds:.1f} s, {count / seconds:,.0f} images/s",
        flush=True,
    )
    train = dataset.read(None)[0]
    if not cached:
        shutil.rmtree(folder / "cache")
        train = Split(ImageFiles(paths, dataset.input_shape), np.arange(count, dtype=np.int32) % 10)
    return dataset, train


def _photo(random: np.random.Generator) -> Image.Image:
    """Blurred shapes, texture and noise: a JPEG file of the size of a photo's."""
    pixels = np.zeros((400, 500, 3))
    for grid, strength in ((8, 90), (50, 25), (200, 12)):
        noise = random.normal(128, strength, (grid * 4 // 5, grid, 3)).clip(0, 255)
        layer = Image.fromarray(noise.astype(np.uint8)).resize((500, 400), Image.Resampling.BICUBIC)
        pixels += np.asarray(layer, np.float64) - 128
    return Image.fromarray((pixels + 128).clip(0, 255).astype(np.uint8))


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


def _seconds(run: Callable[[], Any], times: int, untimed: int) -> tuple[float, float]:
    """Seconds that passed, and seconds of all processors in this process."""
    for _ in range(untimed):
        run()
    started, computed = time.perf_counter(), time.process_time()
    for _ in range(times):
        run()
    return time.perf_counter() - started, time.process_time() - computed


if __name__ == "__main__":
    run_command(main)
