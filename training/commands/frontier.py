"""`larq-ensemble frontier`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from larq_ensemble.console.options import INPUT, SPECS, OutputFolder
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.training.commands.options import split_options


@click.command("frontier", short_help="Accuracy of runs against storage and compute.")
@click.argument("runs", type=INPUT, nargs=-1, required=True, metavar="RUN...")
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
    help="Where the data are now, or other data of the same classes and image size: "
    f"{SPECS}  [default: those of each run]",
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

    Storage is all that a device keeps. Compute is m times the multiply-accumulates of one member,
    and by the paper's energy model m times 1.92 mJ (XNOR-Net on ImageNet). Points on the Pareto
    front are marked.

    \b
    Examples:
      larq-ensemble frontier runs/backbone runs/fusion runs/bagging --out frontier
      larq-ensemble frontier figures/runs/*/* --split validation --out frontier
    """
    from larq_ensemble.runs import load_run
    from larq_ensemble.training.frontier import COSTS, frontier

    with reporting(json_target) as report:
        from larq_ensemble.files import write_csv
        from larq_ensemble.training.plots import draw_frontier, save

        loaded = [load_run(run) for run in runs]
        points = frontier(
            loaded,
            out,
            dataset=dataset,
            split=split,
            data_dir=data_dir,
            limit=limit_test,
            progress=report.line,
        )
        report.table(
            f"{points[0].samples:,} {split} images of {points[0].dataset}; "
            "* on the Pareto front",
            ["network", "m", "top-1 %", "bytes", "MACs", "of them real", "paper's mJ"],
            [
                [
                    f"{point.model}, {point.label}", point.members, point.top1,
                    *(
                        f"{getattr(point, cost):,}{' *' if cost in best else '  '}"
                        for cost in COSTS[:2]
                        for best in [point.best_by.split()]
                    ),
                    point.real_macs,
                    point.paper_energy_mj,
                ]
                for point in points
            ],
        )  # fmt: skip
        stem = Path(out) / "frontier"
        write_csv(f"{stem}.csv", points)
        png, svg = save(draw_frontier(points), stem)
        report.line(f"Wrote {stem}.csv, .png and .svg.")
        report.result = {
            "points": [asdict(point) for point in points],
            "csv": f"{stem}.csv",
            "png": str(png),
            "svg": str(svg),
        }
