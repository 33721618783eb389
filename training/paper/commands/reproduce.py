"""`larq-ensemble reproduce`."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from larq_ensemble.console.options import (
    SHARE_BELOW_1,
    OutputFolder,
    member_counts,
    seed_option,
    width_option,
)
from larq_ensemble.console.reporting import KERAS_VERBOSITY, Report, json_option, reporting
from larq_ensemble.training.commands.options import data_options

if TYPE_CHECKING:
    from larq_ensemble.training.paper.figures import Figure
    from larq_ensemble.training.paper.points import Point


@click.command("reproduce", short_help="A table or figure of the paper: ours next to its own.")
@click.argument("name")
@click.option(
    "--out",
    type=OutputFolder(),
    required=True,
    metavar="DIR",
    help="For NAME.csv, NAME.png, NAME.svg, with the settings that are not the default in their "
    "names, and runs/, where what was trained before is found.",
)
@click.option(
    "--members",
    type=member_counts,
    help="Values of M  [default: the paper's, 2,4,6,8,10]",
)
@click.option(
    "--recipe",
    "recipe_name",
    default="paper",
    show_default=True,
    help="paper (Kim et al. 2022) or short (2 CPU cores).",
)
@click.option("--epochs", type=click.IntRange(1), help="Of each ensemble  [default: the recipe's]")
@click.option(
    "--pretrain-epochs", type=click.IntRange(1), help="Of each backbone  [default: the recipe's]"
)
@width_option
@click.option(
    "--dataset",
    "dataset_name",
    help="Another data set than the figure's, such as digits: our curve only.",
)
@data_options
@click.option(
    "--validation",
    type=SHARE_BELOW_1,
    default=0.0,
    show_default=True,
    help="Share of the training images held out; the paper's is 0.",
)
@click.option(
    "--bfloat16",
    is_flag=True,
    help="Train single networks in mixed precision, and the members that share filters and are "
    "trained together, for CPUs with AVX512_BF16 or AMX. Members of voting and bagging, which "
    "are trained in turn, stay in float32, and so do those that share nothing, and ReActNet's.",
)
@seed_option
@json_option
def command(
    name: str,
    out: str,
    members: tuple[int, ...] | None,
    recipe_name: str,
    epochs: int | None,
    pretrain_epochs: int | None,
    width: float,
    dataset_name: str | None,
    data_dir: str | None,
    limit_train: int | None,
    limit_test: int | None,
    validation: float,
    bfloat16: bool,
    seed: int,
    json_target: str | None,
) -> None:
    """Run a table or figure of Kim et al. 2022 and put the paper's numbers beside ours.

    \b
    NAME is one of
      table1    bits of ResNet-20 by block                counted, exact
      table2    bits of ResNet-18 by block                counted, exact
      fig5a     schemes, ResNet-20, CIFAR-100             16 trainings
      fig5b     schemes, ResNet-18, CIFAR-100             16
      fig6      schemes, ResNet-20, CIFAR-10              16
      fig7a     what members share, ResNet-20: top-1      31
      fig7b     what members share, ResNet-20: bits       counted, exact
      fig8      schemes, Bi-Real-Net-18, CIFAR-100        16
      fig9      schemes, ReActNet-10, CIFAR-100           17
      boosting  ResNet-20, CIFAR-100; of the paper's text  5

    Schemes are fusion, voting and bagging, as the paper's library trained them: members of voting
    and bagging iterate over the data by themselves, and bagging is our batch_bagging. Missing runs
    are trained, members that train one after the other once for all M. The same command resumes a
    run that was interrupted. Finished runs are used again, by other figures with the same --out
    too. Points of other M that are there already stay in the CSV and in the figure.

    \b
    Examples:
      larq-ensemble reproduce table1 --out figures
      larq-ensemble reproduce fig5a --out figures --data-dir ~/tensorflow_datasets
      larq-ensemble reproduce fig7a --recipe short --members 2,4 --out figures
    """
    from larq_ensemble.data.datasets import DataOptions
    from larq_ensemble.training.paper.figures import FIGURES, AccuracyFigure, BlockTable
    from larq_ensemble.training.paper.library import Settings
    from larq_ensemble.training.paper.points import counted_points, trained_points

    with reporting(json_target) as report:
        figure, stem = FIGURES[name], Path(out) / name
        # Before the work, because matplotlib may be missing.
        import larq_ensemble.training.paper.plots  # noqa: F401

        if isinstance(figure, AccuracyFigure):
            settings = Settings(
                recipe=recipe_name,
                epochs=epochs,
                pretrain_epochs=pretrain_epochs,
                dataset=dataset_name,
                data=DataOptions(data_dir, validation, limit_train, limit_test),
                width=width,
                seed=seed,
                bfloat16=bfloat16,
            )
            stem = Path(f"{stem}{settings.suffix}")
            points = trained_points(
                name, out, settings, members=members, progress=report.line, verbose=KERAS_VERBOSITY
            )
            here = "" if dataset_name is None else f" (here on {dataset_name})"
            _accuracy_table(report, figure.title + here, points)
        else:
            _refuse_options_of_training(name, has_members=not isinstance(figure, BlockTable))
            points = counted_points(name, members)
            report.result["equal"] = _bits_table(report, figure.title, points)
            if isinstance(figure, BlockTable):
                report.line(figure.note)
        _write(report, figure, points, stem)
        report.result |= {"name": name, "points": [asdict(point) for point in points]}


def _write(report: Report, figure: Figure, points: Sequence[Point], stem: Path) -> None:
    """Writes the CSV and the plots, with what the CSV has of other M.

    What is there of another experiment, such as one of an earlier version, gets another name.
    """
    from larq_ensemble.files import write_csv
    from larq_ensemble.training.paper.plots import draw
    from larq_ensemble.training.paper.points import read_points, with_other_members
    from larq_ensemble.training.plots import save

    csv = Path(f"{stem}.csv")
    if csv.exists():
        there = read_points(csv)
        merged = None if there is None else with_other_members(points, there)
        if merged is None:
            report.line(f"{csv} was of another experiment: it is {_renamed(stem)}.csv now.")
        else:
            points = merged
    write_csv(csv, points)
    png, svg = save(draw(figure, points), stem)
    report.line(f"Wrote {stem}.csv, .png and .svg.")
    report.result |= {"csv": str(csv), "png": str(png), "svg": str(svg)}


def _renamed(stem: Path) -> Path:
    """Gives a CSV and its plots a new name, and returns it without their endings."""
    names = (Path(f"{stem}-before{number}") for number in itertools.count(1))
    new = next(name for name in names if not Path(f"{name}.csv").exists())
    for suffix in (".png", ".svg", ".csv"):  # the CSV last, for whoever is interrupted
        with contextlib.suppress(FileNotFoundError):
            Path(f"{stem}{suffix}").rename(f"{new}{suffix}")
    return new


def _refuse_options_of_training(name: str, *, has_members: bool) -> None:
    """A table that is counted has no epochs, and one of a single network no members."""
    context = click.get_current_context()
    allowed = {"name", "out", "json_target"}
    allowed |= {"members"} if has_members else set()
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        if given and parameter.name not in allowed:
            raise click.UsageError(
                f"{name} is counted, not trained: leave out {parameter.opts[0]}.", context
            )


def _pairs(points: Sequence[Point]) -> dict[tuple[Any, ...], dict[str, float]]:
    """Our value and the paper's, by network, curve and M."""
    pairs: dict[tuple[Any, ...], dict[str, float]] = {}
    for point in points:
        key = (point.model, point.label, point.members)
        pairs.setdefault(key, {})[point.origin] = point.value
    return pairs


def _bits_table(report: Report, title: str, points: Sequence[Point]) -> bool:
    pairs = _pairs(points)
    equal = {key: pair["ours"] == pair["paper"] for key, pair in pairs.items()}
    by_members = any(point.members is not None for point in points)
    rows = []
    for (model, label, members), pair in pairs.items():
        of = [label, members] if by_members else [label]
        same = "yes" if equal[model, label, members] else "NO"
        rows.append([*of, pair["ours"], pair["paper"], same])
    what = ["weights", "M"] if by_members else ["weights"]
    report.table(title, [*what, "ours, bits", "paper, bits", "equal"], rows)
    return all(equal.values())


def _accuracy_table(report: Report, title: str, points: Sequence[Point]) -> None:
    rows = []
    for (model, label, members), pair in _pairs(points).items():
        ours, theirs = pair.get("ours"), pair.get("paper")
        difference = None if ours is None or theirs is None else ours - theirs
        rows.append([model, label, members, ours, theirs, difference])
    report.table(title, ["network", "curve", "M", "ours, top-1 %", "paper's", "difference"], rows)
