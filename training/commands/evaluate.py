"""`larq-ensemble evaluate`."""

from __future__ import annotations

import click

from larq_ensemble.console.options import INPUT
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.training.commands.options import split_options


@click.command("evaluate", short_help="Metrics of the first m members, for each m.")
@click.argument("run", type=INPUT)
@click.option(
    "--members",
    type=click.IntRange(1),
    metavar="m",
    help="Only the first m members  [default: each m from 1 to all]",
)
@click.option(
    "--dataset",
    "dataset_name",
    help="Another data set of the same image shape  [default: the run's]",
)
@split_options
@json_option
def command(
    run: str,
    members: int | None,
    dataset_name: str | None,
    split: str,
    data_dir: str | None,
    limit_test: int | None,
    json_target: str | None,
) -> None:
    """Top-1, top-5, NLL, ECE, Brier score and disagreement of a run.

    \b
    Examples:
      larq-ensemble evaluate runs/fusion
      larq-ensemble evaluate runs/fusion --members 2 --split validation --json -
    """
    from larq_ensemble.runs import load_run

    with reporting(json_target) as report:
        loaded = load_run(run)
        from larq_ensemble.training.evaluation import evaluate

        report.result = evaluate(
            loaded,
            members=members,
            dataset_name=dataset_name,
            split=split,
            data_dir=data_dir,
            limit=limit_test,
        )
        rows = report.result["by_members"]
        columns = ["members", "top1", "top5", "nll", "ece", "brier", "disagreement"]
        report.table(
            f"{run}: {report.result['samples']:,} {split} images of {report.result['dataset']}",
            columns,
            [[row[column] for column in columns] for row in rows],
        )
