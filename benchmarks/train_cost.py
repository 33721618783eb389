"""The cost of training a fusion ensemble by the number of members M: a table and a figure.

XNOR-ResNet-20, 100 classes, images of 32x32x3, as `larq-ensemble train` trains it: seconds to build
the ensemble and to the end of the first step, member-images per second, and peak memory. Every
measurement is a process of its own. Memory grows by about 1 GB a member in batches of 256; smaller
batches, --bfloat16 or --recompute take less.

    python benchmarks/train_cost.py --plot cost
    python benchmarks/train_cost.py --members 1,4 --batch 64 --rounds 3
    python benchmarks/train_cost.py --recompute --json -
"""

from __future__ import annotations

from statistics import median
from typing import Any

import click
from fusion_steps import Training, measure, process_options

from larq_ensemble.cli import run_command
from larq_ensemble.console.options import OutputFile
from larq_ensemble.console.reporting import json_option, reporting


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))
@process_options(members="1,2,4,8,16", rounds=1)
@click.option("--bfloat16", is_flag=True, help="Frozen binary convolutions in bfloat16.")
@click.option("--recompute", is_flag=True, help="In the activation memory of one member.")
@click.option(
    "--plot", type=OutputFile(".png", ".svg"), metavar="STEM", help="Write STEM.png and STEM.svg."
)
@json_option
def main(
    members: tuple[int, ...],
    batch: int,
    steps: int,
    rounds: int,
    width: float,
    bfloat16: bool,
    recompute: bool,
    plot: str | None,
    json_target: str | None,
) -> None:
    with reporting(json_target) as report:
        rows: list[dict[str, Any]] = []
        for count in members:
            training = Training(count, batch, steps, width, bfloat16, recompute)
            runs = [measure(training) for _ in range(rounds)]
            rows.append(
                {
                    "members": count,
                    "build": median(run.build for run in runs),
                    "first_step": median(run.first_step for run in runs),
                    "member_images_per_second": median(run.member_images for run in runs),
                    "peak": median(run.peak for run in runs),
                }
            )
            rows[-1]["relative"] = (
                rows[-1]["member_images_per_second"] / rows[0]["member_images_per_second"]
            )
            report.line(
                f"M = {count}: first step after {rows[-1]['first_step']:.1f} s, "
                f"{rows[-1]['member_images_per_second']:,.0f} member-images/s"
            )
        report.table(
            f"Fusion of XNOR-ResNet-20, 100 classes, batch {batch}, width {width}"
            + ", bfloat16" * bfloat16 + ", recomputed" * recompute,
            ["M", "build s", "first step s", "member-images/s", f"to M = {members[0]}", "peak GB"],
            [
                [
                    str(row["members"]), row["build"], row["first_step"],
                    f"{row['member_images_per_second']:,.0f}", row["relative"], row["peak"] / 1e9,
                ]
                for row in rows
            ],
        )  # fmt: skip
        report.line(
            f"Medians of {rounds} process(es) of {steps} step(s). Build and first step: from the "
            "start of building the ensemble, with all libraries imported, to that of training and "
            "to the end of its first step."
        )
        report.result["rows"] = rows
        if plot is not None:
            draw(rows, plot)


def draw(rows: list[dict[str, Any]], stem: str) -> None:
    """Seconds, speed and memory against M."""
    from larq_ensemble.training.plots import new_figure, save

    figure, panels = new_figure(3, sharex=True, sharey=False)
    members = [row["members"] for row in rows]
    for axes, title, scale, columns in (
        (panels[0], "seconds to the first step's end; below: to build", 1, "first_step build"),
        (panels[1], "member-images per second", 1, "member_images_per_second"),
        (panels[2], "peak memory (GB)", 1e-9, "peak"),
    ):
        for column in columns.split():
            axes.plot(members, [scale * row[column] for row in rows], marker="o")
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("M")
        axes.set_xticks(members)
        axes.set_ylim(bottom=0)
    save(figure, stem)


if __name__ == "__main__":
    run_command(main)
