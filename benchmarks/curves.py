"""Draws the learning curves of runs from their log.csv.

python benchmarks/curves.py runs/backbone runs/fusion --out docs/reports/curves.png
"""

from __future__ import annotations

import csv
import re
from itertools import groupby
from pathlib import Path

import click
import matplotlib

from larq_ensemble.cli import run_command
from larq_ensemble.console.options import OutputFile
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import replacing

matplotlib.use("Agg")
import matplotlib.pyplot as plt

plt.rcParams["text.parse_math"] = False  # a run's name may hold two $


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False))
@click.option(
    "--out",
    type=OutputFile(),
    required=True,
    help="The picture to write; its suffix is its format.",
)
def main(runs: tuple[str, ...], out: str) -> None:
    """Training loss and validation accuracy of RUNS by epoch, a line a sequential member."""
    figure, (losses, accuracies) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for index, run in enumerate(runs):
        log = Path(run) / "log.csv"
        rows = list(csv.DictReader(log.read_text(encoding="utf-8").splitlines()))
        if not rows:
            raise EnsembleError(f"{str(log)!r} has no epochs: train the run first.")
        name = "val_ensemble_accuracy" if "val_ensemble_accuracy" in rows[0] else "val_accuracy"
        if name not in rows[0]:
            raise EnsembleError(
                f"{str(log)!r} has no {name}: the run held out no validation images, or measured "
                "no accuracy of the ensemble."
            )
        # Members trained each on their own loss: the mean of them, not Keras's sum.
        own = [key for key in rows[0] if re.fullmatch(r"member_\d+_loss", key)] or ["loss"]
        color = f"C{index}"
        final = []
        # In sequential training each member begins with epoch 0: a line for each of them.
        for number, (_, part) in enumerate(groupby(rows, lambda row: row.get("member"))):
            lines = list(part)
            epochs = [int(row["epoch"]) + 1 for row in lines]
            top1 = [100 * float(row[name]) for row in lines]
            loss = [sum(float(row[key]) for key in own) / len(own) for row in lines]
            label = None if number else Path(run).name
            losses.plot(epochs, loss, "o-", ms=3, color=color, label=label)
            accuracies.plot(epochs, top1, "o-", ms=3, color=color)
            final.append(f"{top1[-1]:.2f} %")
        click.echo(f"{run}: {name} {', '.join(final)}")
    losses.set(xlabel="epoch", ylabel="training loss")
    accuracies.set(xlabel="epoch", ylabel="validation top-1 (%)")
    losses.legend()
    for axes in (losses, accuracies):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    with replacing(out) as temporary:
        figure.savefig(temporary, dpi=110)


if __name__ == "__main__":
    run_command(main)
