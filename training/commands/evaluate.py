"""`larq-ensemble evaluate`."""

from __future__ import annotations

import click

from larq_ensemble.console.options import INPUT, dataset_option, normalization_option
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.training.commands.options import split_options


@click.command("evaluate", short_help="Metrics of the first m members, for each m.")
@click.argument("run", type=INPUT, metavar="RUN|F.keras|NAME")
@click.option(
    "--members",
    type=click.IntRange(1),
    metavar="m",
    help="Only the first m members  [default: each m from 1 to all]",
)
@dataset_option
@normalization_option
@split_options
@json_option
def command(
    run: str,
    members: int | None,
    dataset: str | None,
    normalization: str | None,
    split: str,
    data_dir: str | None,
    limit_test: int | None,
    json_target: str | None,
) -> None:
    """Top-1, top-5, NLL, ECE, Brier score and disagreement of a run or a Keras file.

    Nobody knows which images the training of a Keras file held out: give data whose test split it
    has not seen.

    \b
    Examples:
      larq-ensemble evaluate runs/fusion
      larq-ensemble evaluate runs/fusion --members 2 --split validation --json -
      larq-ensemble evaluate runs/photos --dataset folder:new/place/photos
      larq-ensemble evaluate ensemble.keras --dataset folder:photos
    """
    from larq_ensemble.trained import open_trained

    with reporting(json_target) as report:
        loaded = open_trained(run, dataset=dataset, data_dir=data_dir, normalization=normalization)
        from larq_ensemble.training.evaluation import evaluate

        report.result = evaluate(
            loaded,
            members=members,
            dataset=dataset,
            split=split,
            data_dir=data_dir,
            limit=limit_test,
        )
        rows = report.result["by_members"]
        columns = ["members", "top1", "top5", "nll", "ece", "brier", "disagreement"]
        report.table(
            f"{run}: {report.result['samples']:,} {split} images of {report.result['dataset']}"
            f"{'' if report.result['own_data'] else ', which it was not trained on'}",
            columns,
            [[row[column] for column in columns] for row in rows],
        )
