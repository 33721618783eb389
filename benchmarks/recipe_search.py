"""Which ingredients of a recipe help: one at a time against a base, over seeds, on validation.

Trains a backbone with the base recipe and with each ingredient alone, and at last with all that are
kept together. All take the same epochs, hold out the same images, and differ in nothing else. A run
in OUT is not trained again, so the same command goes on after an interruption. The test split is
not read.

    python benchmarks/recipe_search.py --dataset cifar100 --epochs 6 --bfloat16 --out search
    python benchmarks/recipe_search.py --dataset cifar100 --epochs 6 --real runs/real --out search

An ingredient is kept if the accuracy is higher than the base's with every seed, and higher by at
least --least points on average. Of two that set the same, such as two learning rates, the better.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from page import made_by, mean_and_spread, write_between, write_option

from larq_ensemble.cli import run_command
from larq_ensemble.console.markdown import markdown_table
from larq_ensemble.console.options import (
    INPUT,
    NOT_NEGATIVE,
    POSITIVE,
    OutputFolder,
    data_dir_option,
    names,
)
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.data.datasets import DataOptions
from larq_ensemble.errors import EnsembleError, UnknownNameError

if TYPE_CHECKING:
    from larq_ensemble.data.datasets import Dataset
    from larq_ensemble.runs import Run
    from larq_ensemble.training.recipes import Recipe

#: The generated part of a page is between these two lines.
BEGIN, END = "<!-- recipe: by benchmarks/recipe_search.py -->", "<!-- end of recipe -->"
BASE, TOGETHER = "base", "all kept together"


@dataclass(frozen=True)
class Settings:
    """What an ingredient may set.

    # Arguments
        lr: multiplies the recipe's learning rate.
        warmup: share of the epochs in which the rate rises.
        label_smoothing, weight_decay: as in a recipe.
        augment, estimator: as for `pretrain`; `None`: as by default.
        teacher: share of the teacher in the loss; 0: there is none.
        from_real: whether the first training starts from the real-valued twin.
        two_stages: whether half of the epochs train binary activations and real-valued filters.
    """

    lr: float = 1.0
    warmup: float = 0.0
    label_smoothing: float = 0.0
    weight_decay: float = 0.0
    augment: str | None = None
    estimator: str | None = None
    teacher: float = 0.0
    from_real: bool = False
    two_stages: bool = False


#: By name, the setting and its value.
INGREDIENTS: dict[str, tuple[str, Any]] = {
    "two_stages": ("two_stages", True),
    "teacher": ("teacher", 0.9),
    "teacher_half": ("teacher", 0.5),
    "from_real": ("from_real", True),
    "approx_sign": ("estimator", "approx_sign"),
    "lr_double": ("lr", 2.0),
    "lr_half": ("lr", 0.5),
    "warmup": ("warmup", 0.05),
    "label_smoothing": ("label_smoothing", 0.1),
    "weight_decay": ("weight_decay", 0.05),
    "weight_decay_fourfold": ("weight_decay", 0.2),
    "augment_rand": ("augment", "rand"),
    "augment_mix": ("augment", "mix"),
}


@dataclass(frozen=True)
class Verdict:
    """An ingredient against the base: differences by seed, and whether it is kept."""

    differences: list[float]
    kept: bool


def verdicts(found: Mapping[str, Sequence[float]], least: float) -> dict[str, Verdict]:
    """Which ingredients are kept, by the rule above.

    # Arguments
        found: validation top-1 in percent by seed, for the base and each ingredient.
        least: points.
    """
    gains = {
        name: [value - base for value, base in zip(top1, found[BASE], strict=True)]
        for name, top1 in found.items()
        if name in INGREDIENTS
    }
    passed = {
        name: float(np.mean(gain))
        for name, gain in gains.items()
        if min(gain) > 0 and np.mean(gain) >= least
    }
    best: dict[str, str] = {}  # of each setting
    for name in sorted(passed, key=passed.__getitem__):
        best[INGREDIENTS[name][0]] = name
    return {name: Verdict(gain, name in best.values()) for name, gain in gains.items()}


def together(kept: Iterable[str]) -> Settings:
    """The settings of several ingredients."""
    return replace(Settings(), **dict(INGREDIENTS[name] for name in kept))


@dataclass(frozen=True)
class Search:
    """What all trainings have in common.

    # Arguments
        model, width, dataset, data, bfloat16: as for `pretrain`.
        recipe: the base's.
        real: a trained run of the real-valued twin; `None`: there is none.
        teacher: a run that teaches; `None`: there is none.
        out: the folder of the runs.
    """

    model: str
    width: float
    dataset: Dataset
    data: DataOptions
    bfloat16: bool
    recipe: Recipe
    real: Run | None
    teacher: Run | None
    out: Path

    @property
    def split_seed(self) -> int:
        """Of the images that all hold out."""
        learned_from = [run for run in (self.real, self.teacher) if run is not None]
        return learned_from[0].config.split_seed if learned_from else 0

    def top1(self, settings: Settings, name: str, seed: int) -> float:
        """Trains with these settings; the accuracy on the validation split, in percent."""
        start, epochs = self.real if settings.from_real else None, self.recipe.epochs
        if settings.two_stages:
            start, _ = self._trained(
                settings, f"{name}-{seed}-1", seed, epochs // 2, start, binarize="activations"
            )
            epochs -= epochs // 2
        _, result = self._trained(settings, f"{name}-{seed}", seed, epochs, start)
        return float(result["validation_top1"])

    def _trained(
        self,
        settings: Settings,
        name: str,
        seed: int,
        epochs: int,
        start: Run | None,
        **arguments: Any,
    ) -> tuple[Run, dict[str, Any]]:
        from larq_ensemble.training.distillation import Distillation
        from larq_ensemble.training.memory import free_networks
        from larq_ensemble.training.pretrain import pretrain

        distillation = None
        if settings.teacher and self.teacher is not None:
            distillation = Distillation(self.teacher, weight=settings.teacher)
        recipe = self.recipe.override(
            epochs=epochs,
            lr=self.recipe.lr * settings.lr,
            warmup_epochs=settings.warmup * epochs,
            label_smoothing=settings.label_smoothing,
            weight_decay=settings.weight_decay,
        )
        free_networks()
        return pretrain(
            self.model, self.dataset, self.out / name, recipe=recipe, seed=seed, width=self.width,
            estimator=settings.estimator, augment=settings.augment, data=self.data,
            from_real=start, distillation=distillation, bfloat16=self.bfloat16,
            split_seed=self.split_seed, resume=True, verbose=0, **arguments,
        )  # fmt: skip


def rows(found: Mapping[str, Sequence[float]], judged: Mapping[str, Verdict]) -> list[list[str]]:
    """A row for each training: accuracies, their difference from the base's, the verdict."""
    table = []
    for name, top1 in found.items():
        gain = [value - base for value, base in zip(top1, found[BASE], strict=True)]
        verdict = ("kept" if judged[name].kept else "dropped") if name in judged else ""
        seeds = ", ".join(f"{value:.2f}" for value in top1)
        difference = "" if name == BASE else mean_and_spread(gain)
        table.append([name, seeds, mean_and_spread(top1), difference, verdict])
    return table


COLUMNS = ("ingredient", "top-1 % by seed", "mean", "difference", "verdict")


@click.command()
@click.option("--model", default="deploynet9", show_default=True, help="As for `pretrain`.")
@click.option("--width", type=POSITIVE, default=1.0, show_default=True, help="As for `pretrain`.")
@click.option("--dataset", "spec", default="cifar100", show_default=True, help="As for `pretrain`.")
@click.option("--epochs", type=click.IntRange(2), default=6, show_default=True, help="Of each.")
@click.option("--batch-size", type=click.IntRange(1), help="In place of the recipe's.")
@click.option("--lr", type=POSITIVE, help="In place of the recipe's.")
@click.option("--seeds", type=click.IntRange(1), default=2, show_default=True, help="How many.")
@click.option(
    "--real", type=INPUT, metavar="RUN", help="A trained real-valued twin, to start from."
)
@click.option(
    "--teacher", type=INPUT, metavar="RUN", help="A trained network that teaches  [default: --real]"
)
@click.option(
    "--only",
    type=names,
    metavar="I,...",
    help=f"Ingredients to try, of {', '.join(INGREDIENTS)}.  [default: all that can be]",
)
@click.option(
    "--least",
    type=NOT_NEGATIVE,
    default=0.3,
    show_default=True,
    help="Points that an ingredient must gain on average.",
)
@click.option("--bfloat16", is_flag=True, help="As for `pretrain`.")
@data_dir_option
@click.option("--limit-train", type=click.IntRange(2), metavar="N", help="Only N training images.")
@click.option("--out", type=OutputFolder(), required=True, metavar="DIR", help="For the runs.")
@write_option
@json_option
def main(
    model: str,
    width: float,
    spec: str,
    epochs: int,
    batch_size: int | None,
    lr: float | None,
    seeds: int,
    real: str | None,
    teacher: str | None,
    only: tuple[str, ...] | None,
    least: float,
    bfloat16: bool,
    data_dir: str | None,
    limit_train: int | None,
    out: str,
    page: Path | None,
    json_target: str | None,
) -> None:
    """Compare ingredients of a recipe."""
    teacher = teacher or real
    tried = chosen(only, {"from_real": real, "teacher": teacher})
    with reporting(json_target) as report:
        from larq_ensemble.data.opening import open_dataset
        from larq_ensemble.runs import load_run
        from larq_ensemble.training.recipes import RECIPES

        dataset = open_dataset(spec, data_dir=data_dir)
        recipe = RECIPES["short"](dataset.classes, model).pretrain
        search = Search(
            model,
            width,
            dataset,
            DataOptions(data_dir, limit_train=limit_train, limit_test=0),
            bfloat16,
            recipe.override(epochs=epochs, batch_size=batch_size, lr=lr),
            None if real is None else load_run(real, kind="backbone"),
            None if teacher is None else load_run(teacher),
            Path(out),
        )
        found: dict[str, list[float]] = {}

        def train(name: str, settings: Settings, folder: str) -> None:
            found[name] = [search.top1(settings, folder, seed) for seed in range(seeds)]
            report.line(f"{name}: {mean_and_spread(found[name])} %")

        train(BASE, Settings(), BASE)
        for name in tried:
            train(name, together([name]), name)
        judged = verdicts(found, least)
        kept = sorted(name for name, verdict in judged.items() if verdict.kept)
        if len(kept) > 1:
            train(TOGETHER, together(kept), "-".join(kept))
        lines = rows(found, judged)
        report.table(f"Validation top-1 % of {model} after {epochs} epochs", COLUMNS, lines)
        report.result = {
            "top1": found,
            "kept": kept,
            "differences": {name: verdict.differences for name, verdict in judged.items()},
        }
        if page is not None:
            made = made_by("benchmarks/recipe_search.py")
            write_between(page, BEGIN, END, f"{markdown_table(COLUMNS, lines)}\n\n{made}")


def chosen(only: Sequence[str] | None, runs: Mapping[str, str | None]) -> list[str]:
    """The ingredients to try: those asked for, or all that can be.

    # Arguments
        runs: what some settings need, by setting; `None`: it isn't there.

    # Raises
        EnsembleError: for an unknown one, or one that needs a run that isn't there.
    """
    missing = {setting for setting, run in runs.items() if run is None}
    possible = [name for name, (setting, _) in INGREDIENTS.items() if setting not in missing]
    for name in only or ():
        if name not in INGREDIENTS:
            raise UnknownNameError("ingredient", name, INGREDIENTS)
        if name not in possible:
            needed = {"from_real": "real"}.get(INGREDIENTS[name][0], "teacher")
            raise EnsembleError(f"The ingredient {name!r} needs a trained run: give `{needed}`.")
    return possible if only is None else [*only]


if __name__ == "__main__":
    run_command(main)
