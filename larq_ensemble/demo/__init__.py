"""`larq-ensemble demo`: what this package does, in minutes and without a download."""

from __future__ import annotations

import click
from click.core import ParameterSource

from larq_ensemble.console.options import OutputFolder, data_dir_option, seed_option
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.pretrained.samples import sample_names

TRAINED_HERE = "digits"


@click.command("demo", short_help="What it does, on embedded real data, in a few minutes.")
@click.option(
    "--dataset",
    type=click.Choice([TRAINED_HERE, *sample_names()]),
    default=TRAINED_HERE,
    show_default=True,
    help="digits: trains everything here; the others: a trained network of the package.",
)
@click.option(
    "--network",
    metavar="NAME",
    help="Of the package, for the data set  [default: the most accurate ensemble]",
)
@click.option(
    "--out",
    type=OutputFolder(),
    metavar="DIR",
    help="Where everything is written. An interrupted demo is resumed.  "
    "[default: runs/demo, or runs/demo-DATASET]",
)
@data_dir_option
@seed_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    dataset: str,
    network: str | None,
    out: str | None,
    data_dir: str | None,
    seed: int,
    json_target: str | None,
) -> None:
    """Show the whole job on handwritten digits, or a trained network on CIFAR.

    With digits, scikit-learn's 1,797 real images of 8x8 pixels, it pretrains a binarized ResNet-20,
    trains four members that share its frozen filters, evaluates, converts, verifies and predicts,
    in a few minutes. In DIR it writes the runs backbone/ and ensemble/, ensemble.tflite,
    single.tflite and images/. Run again, it goes on where it was interrupted, or repeats its last
    steps.

    With the others it runs an ensemble that comes with the package: accuracy by the number of
    members, members by image, the file, predictions of image files and a picture of them, in
    seconds and without TensorFlow. The 48 test images that come with the package show how it works;
    --data-dir takes the whole test split.

    \b
    Examples:
      larq-ensemble demo
      larq-ensemble demo --out runs/demo7 --seed 7 --json result.json
      larq-ensemble demo --dataset cifar100
      larq-ensemble demo --dataset cifar100 --data-dir ~/tensorflow_datasets
    """
    with reporting(json_target) as report:
        if dataset == TRAINED_HERE:
            if network is not None or data_dir is not None:
                option = "--network" if network is not None else "--data-dir"
                raise click.UsageError(f"{option} has no effect on digits: leave it out.")
            from larq_ensemble.demo.digits import run_demo

            report.result = run_demo(report, out or "runs/demo", seed)
            return
        if context.get_parameter_source("seed") is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--seed has no effect on {dataset}: nothing is random there.")
        from larq_ensemble.demo.trained import run_trained

        report.result = run_trained(
            report, out or f"runs/demo-{dataset}", dataset, network=network, data_dir=data_dir
        )
