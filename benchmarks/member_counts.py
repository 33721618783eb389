"""Schemes for a number of members that changes at run time: accuracy of the first m, by m.

Trains an ensemble by each way from each backbone, and compares its first m members on the
validation split with the single network. A run in OUT is not trained again, so the same command
goes on after an interruption. The test split is not read.

    python benchmarks/member_counts.py runs/backbone --members 10 --epochs 3 --bfloat16 --out counts
    python benchmarks/member_counts.py runs/b0 runs/b1 --ways fusion,nested_fusion --out counts

Recommended is, of the ways whose first member is at least as good as the single network with every
backbone and seed, the one whose accuracy is highest on average over all m.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from page import made_by, mean_and_spread, write_between, write_option

from larq_ensemble.cli import run_command
from larq_ensemble.console.markdown import markdown_table
from larq_ensemble.console.options import (
    INPUT,
    POSITIVE,
    OutputFolder,
    data_dir_option,
    members_option,
    names,
)
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.data.datasets import DataOptions
from larq_ensemble.errors import EnsembleError, UnknownNameError

if TYPE_CHECKING:
    from larq_ensemble.runs import Run

#: The generated part of a page is between these two lines.
BEGIN, END = "<!-- members: by benchmarks/member_counts.py -->", "<!-- end of members -->"
SINGLE = "single network"


@dataclass(frozen=True)
class Way:
    """One way to train the members.

    # Arguments
        scheme: its name.
        power: p of the prefix weights m^p in nested fusion; `None`: the scheme's default, 2.
        keep_pretrained: whether member 0 is the pretrained network, untouched.
    """

    scheme: str
    power: float | None = None
    keep_pretrained: bool = False

    def prefix_weights(self, members: int) -> list[float] | None:
        """The weights of the losses of the first m members, m = 1 to M."""
        return None if self.power is None else [m**self.power for m in range(1, members + 1)]


WAYS = {
    "fusion": Way("fusion"),
    "nested_fusion": Way("nested_fusion"),
    "nested_fusion_m4": Way("nested_fusion", power=4),
    "sampled_nested_fusion": Way("sampled_nested_fusion"),
    "voting": Way("voting"),
    "fusion_kept": Way("fusion", keep_pretrained=True),
    "nested_fusion_kept": Way("nested_fusion", keep_pretrained=True),
    "nested_fusion_m4_kept": Way("nested_fusion", power=4, keep_pretrained=True),
}


@dataclass(frozen=True)
class Curve:
    """What the first m members of one training get right.

    # Arguments
        way: a key of `WAYS`.
        backbone: the run that members started from.
        seed: of the training.
        single: top-1 of the backbone.
        top1: of the first m members, m = 1 to M, in percent of the validation split.
        nll, ece: of the same.
    """

    way: str
    backbone: str
    seed: int
    single: float
    top1: list[float]
    nll: list[float]
    ece: list[float]


def recommended(curves: Iterable[Curve]) -> str | None:
    """The way to take, see above; `None`: each has a first member that is worse somewhere."""
    by_way: dict[str, list[Curve]] = {}
    for curve in curves:
        by_way.setdefault(curve.way, []).append(curve)
    safe = {
        way: float(np.mean([curve.top1 for curve in of_way]))
        for way, of_way in by_way.items()
        if all(curve.top1[0] >= curve.single for curve in of_way)
    }
    return max(safe, key=safe.__getitem__) if safe else None


def shown(members: int) -> list[int]:
    """The numbers of members that the table has a column for: at most seven, M the last."""
    if members <= 7:
        return [*range(1, members + 1)]
    return sorted({1, 2, 3, 4, *np.linspace(4, members, 4).round().astype(int).tolist()})


def rows(curves: Sequence[Curve]) -> list[list[str]]:
    """A row for each way, and first that of the single network: means, with spread if several."""
    counts = shown(len(curves[0].top1))
    singles = {curve.backbone: curve.single for curve in curves}
    table = [[SINGLE, mean_and_spread([*singles.values()]), *[""] * len(counts)]]
    for way in dict.fromkeys(curve.way for curve in curves):
        of_way = [curve for curve in curves if curve.way == way]
        cells = [mean_and_spread([curve.top1[m - 1] for curve in of_way]) for m in counts]
        table.append([way, *cells, mean_and_spread([float(np.mean(c.top1)) for c in of_way])])
    return table


def header(members: int) -> list[str]:
    return ["way", *(f"m = {m}" for m in shown(members)), "mean over m"]


@dataclass(frozen=True)
class Comparison:
    """What all trainings have in common.

    # Arguments
        members: M.
        recipe: name of the recipes.
        overrides: of the recipe, by name.
        teacher: a run; `None`: no distillation.
        bfloat16: as for `train_ensemble`.
        data_dir, limit_train: as for `DataOptions`.
        out: the folder of the runs.
    """

    members: int
    recipe: str
    overrides: dict[str, Any]
    teacher: str | None
    bfloat16: bool
    data_dir: str | None
    limit_train: int | None
    out: Path

    def curve(self, backbone: Run, name: str, seed: int, number: int) -> Curve:
        """Trains by a way and evaluates; a run that was trained before is not trained again.

        # Arguments
            number: of the backbone, for the name of the run.
        """
        from larq_ensemble.runs import load_run
        from larq_ensemble.training.distillation import Distillation
        from larq_ensemble.training.ensemble import train_ensemble
        from larq_ensemble.training.evaluation import evaluate
        from larq_ensemble.training.recipes import recipes_for

        way, config = WAYS[name], backbone.config
        limit = self.limit_train or config.data.get("limit_train")
        recipes = recipes_for(
            config.dataset, self.recipe, model_name=config.architecture, scheme=way.scheme
        )
        run, _ = train_ensemble(
            backbone,
            self.out / f"{name}-{number}-{seed}",
            members=self.members,
            scheme=way.scheme,
            recipe=recipes.retrain.override(**self.overrides),
            seed=seed,
            data=DataOptions(self.data_dir, config.validation, limit, limit_test=0),
            prefix_weights=way.prefix_weights(self.members),
            keep_pretrained=way.keep_pretrained,
            distillation=Distillation(load_run(self.teacher)) if self.teacher else None,
            bfloat16=self.bfloat16,
            resume=True,
            verbose=0,
        )
        held_out = dataclasses.replace(config, data=run.config.data)  # the same images for both
        single, ensemble = (
            evaluate(each, split="validation", data_dir=self.data_dir)
            for each in (dataclasses.replace(backbone, config=held_out), run)
        )
        by_members = {
            key: [row[key] for row in ensemble["by_members"]] for key in ("top1", "nll", "ece")
        }
        return Curve(name, str(backbone.path), seed, single["top1"], **by_members)


def draw(curves: Sequence[Curve], stem: Path) -> None:
    """Top-1 against m, a line a way; where the pretrained network is kept, dashed."""
    from larq_ensemble.training.plots import GREY, new_figure, save

    figure, (axes,) = new_figure()
    counts = range(1, len(curves[0].top1) + 1)
    for place, name in enumerate(dict.fromkeys(curve.way for curve in curves)):
        mean = np.mean([curve.top1 for curve in curves if curve.way == name], axis=0)
        kept = WAYS[name].keep_pretrained
        axes.plot(
            counts, mean, "o--" if kept else "o-", markersize=4, color=f"C{place}", label=name
        )
    singles = {curve.backbone: curve.single for curve in curves}
    axes.axhline(float(np.mean([*singles.values()])), color=GREY, label=SINGLE)
    axes.set(xlabel="members m", ylabel="validation top-1 (%)", xticks=shown(len(counts)))
    axes.legend(fontsize=8)
    save(figure, stem)


@click.command()
@click.argument("backbones", nargs=-1, required=True, type=INPUT, metavar="RUN...")
@members_option
@click.option(
    "--ways",
    type=names,
    default=",".join(WAYS),
    metavar="W,...",
    help=f"Which of {', '.join(WAYS)}.  [default: all]",
)
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="How many.")
@click.option("--recipe", "recipe_name", default="short", show_default=True, help="As for `train`.")
@click.option("--epochs", type=click.IntRange(1), help="In place of the recipe's.")
@click.option("--batch-size", type=click.IntRange(1), help="In place of the recipe's.")
@click.option("--lr", type=POSITIVE, help="In place of the recipe's.")
@click.option("--teacher", type=INPUT, metavar="RUN", help="As for `train`.")
@click.option("--bfloat16", is_flag=True, help="As for `train`.")
@data_dir_option
@click.option("--limit-train", type=click.IntRange(2), metavar="N", help="Only N training images.")
@click.option(
    "--out",
    type=OutputFolder(),
    required=True,
    metavar="DIR",
    help="For the runs, and member_counts.png and .svg.",
)
@write_option
@json_option
def main(
    backbones: tuple[str, ...],
    members: int,
    ways: tuple[str, ...],
    seeds: int,
    recipe_name: str,
    epochs: int | None,
    batch_size: int | None,
    lr: float | None,
    teacher: str | None,
    bfloat16: bool,
    data_dir: str | None,
    limit_train: int | None,
    out: str,
    page: Path | None,
    json_target: str | None,
) -> None:
    """Compare ways to train ensembles of which a device runs the first m members."""
    for way in ways:
        if way not in WAYS:
            raise UnknownNameError("way", way, WAYS)
    comparison = Comparison(
        members,
        recipe_name,
        {"epochs": epochs, "batch_size": batch_size, "lr": lr},
        teacher,
        bfloat16,
        data_dir,
        limit_train,
        Path(out),
    )
    with reporting(json_target) as report:
        from larq_ensemble.runs import load_run
        from larq_ensemble.training.memory import free_networks

        opened = [load_run(path, kind="backbone") for path in backbones]
        for run in opened:
            if not run.config.validation:
                raise EnsembleError(f"{str(run.path)!r} held out no images to compare ways on.")
        curves: list[Curve] = []
        for (number, run), seed, way in product(enumerate(opened), range(seeds), ways):
            curve = comparison.curve(run, way, seed, number)
            curves.append(curve)
            report.line(
                f"{run.path}, seed {seed}, {way}: {curve.top1[0]:.2f} % with one member, "
                f"{curve.top1[-1]:.2f} % with all; {SINGLE} {curve.single:.2f} %"
            )
            free_networks()
        choice = recommended(curves)
        draw(curves, Path(out, "member_counts"))
        columns, lines = header(members), rows(curves)
        report.table(f"Validation top-1 % of the first m of {members} members", columns, lines)
        report.line(f"Recommended: {choice or 'none, each has a first member that is worse'}.")
        report.result = {"recommended": choice, "curves": [asdict(curve) for curve in curves]}
        if page is not None:
            made = f"{made_by('benchmarks/member_counts.py')} Recommended: `{choice}`."
            write_between(page, BEGIN, END, f"{markdown_table(columns, lines)}\n\n{made}")


if __name__ == "__main__":
    run_command(main)
