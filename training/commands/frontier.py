"""`larq-ensemble frontier`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from larq_ensemble.console.options import INPUT, SPECS, OutputFolder
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.training.commands.options import split_options

if TYPE_CHECKING:
    from larq_ensemble.training.points import FrontierPoint


@click.command("frontier", short_help="Accuracy against storage, memory and compute.")
@click.argument("runs", type=INPUT, nargs=-1, required=True, metavar="RUN|NAME|POINTS.json...")
@click.option(
    "--out",
    type=OutputFolder(),
    required=True,
    metavar="DIR",
    help="For frontier.csv, .png and .svg, and evaluations/, which are used again.",
)
@click.option(
    "--dataset",
    metavar="SPEC",
    help="Where the data are now, or others of its classes, or some of these, and its image "
    f"size: {SPECS}  [default: those of each run]",
)
@split_options
@json_option
def command(
    runs: tuple[str, ...],
    out: str,
    dataset: str | None,
    split: str,
    data_dir: str | None,
    limit_test: int | None,
    json_target: str | None,
) -> None:
    """Plot top-1 against storage and compute, for the first m members of each RUN and each m.

    Storage is all that a device keeps, in float32 but for binary filters; int8 heads and compact
    values are smaller, which points of files show. Compute is m times the multiply-accumulates of
    one member, and by the paper's energy model m times 1.92 mJ (XNOR-Net on ImageNet). Points on
    the Pareto front are marked. Bars are 95 % intervals for the images.

    POINTS.json has points that were measured on .tflite files, such as quantized networks, by
    benchmarks/alternatives.py measure, benchmarks/arm_cost.py or a program of yours. With them
    top-1 is drawn against bytes, memory while running, and instructions on each core that was
    counted. The page "Accuracy against cost" in docs/reports/reproduction.md has the format.

    \b
    Examples:
      larq-ensemble frontier runs/backbone runs/fusion runs/bagging --out frontier
      larq-ensemble frontier figures/runs/*/* --split validation --out frontier
      larq-ensemble frontier points.json more.json --out frontier
    """
    from larq_ensemble.trained import open_trained
    from larq_ensemble.training.frontier import frontier
    from larq_ensemble.training.points import costs_of, write_points_csv

    results = [run for run in runs if Path(run).is_file()]
    context = click.get_current_context()
    for option in ("dataset", "split", "data_dir", "limit_test"):
        is_given = context.get_parameter_source(option) is not ParameterSource.DEFAULT
        if is_given and len(results) == len(runs):
            raise click.UsageError(
                f"--{option.replace('_', '-')} has no effect on POINTS.json, whose accuracies are "
                "measured: leave it out."
            )
    with reporting(json_target) as report:
        from larq_ensemble.training.plots import draw_frontier, save

        points = frontier(
            [open_trained(run) for run in runs if run not in results],
            out,
            dataset=dataset,
            split=split,
            data_dir=data_dir,
            limit=limit_test,
            results=results,
            progress=report.line,
        )
        first, costs = points[0], costs_of(points)
        if "macs" in costs:
            costs.insert(costs.index("macs") + 1, "real_macs")
        images = "" if first.samples is None else f"{first.samples:,} "
        report.table(
            f"{images}{first.split} images of {first.dataset}; * on the Pareto front",
            ["network", "m", "top-1 %", *(_HEADINGS.get(cost, cost) for cost in costs)],
            [
                [
                    point.label if point.name else f"{point.model}, {point.label}",
                    point.members,
                    point.top1,
                    *(_cell(point, cost) for cost in costs),
                ]
                for point in points
            ],
        )
        stem = Path(out) / "frontier"
        write_points_csv(f"{stem}.csv", points)
        png, svg = save(draw_frontier(points), stem)
        report.line(f"Wrote {stem}.csv, .png and .svg.")
        report.result = {
            "points": [asdict(point) for point in points],
            "csv": f"{stem}.csv",
            "png": str(png),
            "svg": str(svg),
        }


_HEADINGS = {
    "macs": "MACs",
    "real_macs": "of them real",
    "paper_energy_mj": "paper's mJ",
    "ram_bytes": "RAM, bytes",
}


def _cell(point: FrontierPoint, cost: str) -> str:
    value = point.cost(cost)
    if value is None:
        return ""
    number = f"{value:,.2f}" if cost == "paper_energy_mj" else f"{value:,.0f}"
    return f"{number}{' *' if cost in point.best_by.split() else '  '}"
