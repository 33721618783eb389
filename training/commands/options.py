"""Options that several training commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from larq_ensemble.console.options import data_dir_option, limit_test_option

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _all(*decorators: Decorator) -> Decorator:
    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


data_options = _all(
    data_dir_option,
    click.option(
        "--limit-train", type=click.IntRange(2), metavar="N", help="Only N training images."
    ),
    limit_test_option,
)

split_options = _all(
    click.option(
        "--split",
        type=click.Choice(["test", "validation"]),
        default="test",
        show_default=True,
        help="validation to compare runs and settings, test for the final figure.",
    ),
    data_dir_option,
    click.option(
        "--limit-test",
        type=click.IntRange(1),
        metavar="N",
        help="Only the first N images of the split.",
    ),
)

recipe_options = _all(
    click.option(
        "--recipe",
        "recipe_name",
        default="paper",
        show_default=True,
        help="paper (Kim et al. 2022), short (2 CPU cores), or for train a file that tune wrote. "
        "The options below override its values.",
    ),
    click.option(
        "--epochs", type=click.IntRange(0), help="0: an untrained run, which reads no data."
    ),
    click.option("--batch-size", type=click.IntRange(1), help="Images a step."),
    click.option("--lr", type=float, help="Learning rate at the first step."),
    click.option("--end-lr", type=float, help="Learning rate after the last step."),
    click.option("--dropout", type=float, help="Rate before the linear layer."),
)

run_options = _all(
    click.option(
        "--out",
        required=True,
        metavar="RUN",
        help="The run directory to write. Nothing is overwritten.",
    ),
    click.option(
        "--resume",
        is_flag=True,
        help="Go on after the last finished epoch of the run in --out, if there is one.",
    ),
)

distribute_option = click.option(
    "--distribute",
    metavar="STRATEGY",
    help="mirrored (all GPUs of this host) or multiworker (start the same command on every host of "
    "TF_CONFIG, with an --out that they share). --batch-size counts the images of all devices.  "
    "[default: one device]",
)


def refuse_options_of_data() -> None:
    """Refuses the options of data for a run of 0 epochs, which reads none."""
    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        if given and parameter.name in _OF_DATA:
            raise click.UsageError(
                f"{parameter.opts[0]} has no effect: a run of 0 epochs reads no data. Leave it out."
            )


_OF_DATA = ("data_dir", "limit_test", "limit_train")
