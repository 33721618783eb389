"""What to do with few images: networks, recipes, transfer and ensembles on a set of one's own.

Trains each way on the same few training images, and prints the accuracy on the same held-out ones
with its 95 % interval. Ways are trained once for each seed; a run in OUT is not trained again.

    python benchmarks/small_sets.py folder:flowers --image-size 32x32 --limit-train 900 --out small
    python benchmarks/small_sets.py npz:few.npz --out few --backbone runs/cifar100 --seeds 2
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from larq_ensemble.cli import run_command
from larq_ensemble.console.options import INPUT, ImageSize, OutputFolder
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.data.datasets import DataOptions, Dataset
from larq_ensemble.data.opening import open_dataset
from larq_ensemble.data.options import ImageOptions
from larq_ensemble.runs import Run, load_run
from larq_ensemble.runtime.metrics import wilson_interval
from larq_ensemble.training.recipes import RECIPES, Recipes

_MEMBERS = 4


@dataclass(frozen=True)
class Way:
    """One way to train a backbone.

    # Arguments
        name: for the table.
        model: the network.
        recipe: a name of `RECIPES`.
        epochs: in place of the recipe's.
        augment: as for `pretrain`; `None`: the data set's.
        from_backbone: whether it starts from a backbone of many images.
        ensembles: whether ensembles are trained on it.
    """

    name: str
    model: str
    recipe: str = "small"
    epochs: int | None = None
    augment: str | None = None
    from_backbone: bool = False
    ensembles: bool = False


WAYS = (
    Way("paper's recipe, 10 epochs", "resnet20", recipe="paper", epochs=10),
    Way("small, ResNet-20", "resnet20"),
    Way("small, DeployNet-9", "deploynet9", ensembles=True),
    Way("small, its real-valued twin", "deploynet9_real"),
    Way("small, --augment rand", "deploynet9", augment="rand"),
    Way("small, from a backbone", "deploynet9", from_backbone=True, ensembles=True),
)


def trained(
    way: Way, dataset: Dataset, data: DataOptions, out: Path, seed: int, backbone: Run | None
) -> Iterator[dict[str, Any]]:
    """Trains by a way; the results of its backbone and its ensemble."""
    from larq_ensemble.training.ensemble import train_ensemble
    from larq_ensemble.training.pretrain import pretrain

    images = data.training_images(dataset)
    recipes: Recipes = RECIPES[way.recipe](dataset.classes, way.model, "fusion", images)
    recipe = recipes.pretrain.override(epochs=way.epochs)
    run, result = pretrain(
        way.model, dataset, out / "backbone", recipe=recipe, seed=seed, data=data,
        augment=way.augment, from_backbone=backbone if way.from_backbone else None,
        resume=True, verbose=0,
    )  # fmt: skip
    yield {"way": way.name, "members": 1, "epochs": recipe.epochs, **result}
    if way.ensembles:
        _, result = train_ensemble(
            run, out / "ensemble", members=_MEMBERS, recipe=recipes.retrain, seed=seed,
            dataset=dataset, data=data, resume=True, verbose=0,
        )  # fmt: skip
        yield {"way": f"{way.name}, fusion", "epochs": recipes.retrain.epochs, **result}


@click.command()
@click.argument("spec", metavar="DATASET")
@click.option("--image-size", type=ImageSize(), help="As for `larq-ensemble pretrain`.")
@click.option("--limit-train", type=click.IntRange(2), metavar="N", help="Only N training images.")
@click.option("--backbone", type=INPUT, metavar="RUN", help="Of many images, of DeployNet-9.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="How many.")
@click.option("--out", type=OutputFolder(), required=True, metavar="DIR", help="For the runs.")
@json_option
def main(
    spec: str,
    image_size: tuple[int, int] | None,
    limit_train: int | None,
    backbone: str | None,
    seeds: int,
    out: str,
    json_target: str | None,
) -> None:
    """Train on DATASET (folder:DIR, npz:FILE, tfds:NAME) in several ways."""
    with reporting(json_target) as report:
        dataset = open_dataset(spec, images=ImageOptions(image_size=image_size))
        data = DataOptions(limit_train=limit_train)
        many = load_run(backbone, kind="backbone") if backbone else None
        tested = len(dataset.read(None)[1])
        rows = []
        for way in WAYS:
            if way.from_backbone and many is None:
                continue
            for seed in range(seeds):
                place = Path(out, f"{way.name.replace(', ', '-').replace(' ', '_')}-{seed}")
                for result in trained(way, dataset, data, place, seed, many):
                    rows.append({"seed": seed, **result})
                    report.line(f"{result['way']}, seed {seed}: {result['test_top1']:.1f} %")
        report.result = {"dataset": dataset.name, "test_images": tested, "ways": rows}
        report.table(
            f"{dataset.name}, {data.training_images(dataset)} training and {tested} test images",
            ["way", "seed", "members", "epochs", "validation %", "test %", "95 % interval"],
            [
                [
                    *(row[key] for key in ("way", "seed", "members", "epochs")),
                    row["validation_top1"],
                    row["test_top1"],
                    "{:.1f} to {:.1f}".format(*wilson_interval(row["test_top1"], tested)),
                ]
                for row in rows
            ],
        )


if __name__ == "__main__":
    run_command(main)
