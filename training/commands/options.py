"""Options that several training commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from larq_ensemble.console.options import (
    NOT_NEGATIVE,
    SHARE_BELOW_1,
    OutputFolder,
    data_dir_option,
    limit_test_option,
)
from larq_ensemble.data.augmentation import AUGMENTATIONS

if TYPE_CHECKING:
    from larq_ensemble.training.recipes import Recipe

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


def training_data_options(augmentation: str, class_weights: str) -> Decorator:
    """How training images are augmented and weighed.

    # Arguments
        augmentation, class_weights: what applies without the options, for `--help`.
    """
    return _all(
        click.option(
            "--augment",
            type=click.Choice(AUGMENTATIONS),
            help="Random changes of the training images: none; flip (mirrored); crop (moved); rand "
            "(both, turned, zoomed, brightness, contrast); mix (rand and mixup). Don't mirror "
            f"digits and letters.  [default: {augmentation}]",
        ),
        click.option(
            "--class-weights",
            type=click.Choice(["none", "balanced"]),
            help="balanced: all classes count alike in the loss, however many images they have.  "
            f"[default: {class_weights}]",
        ),
    )


batch_size_option = click.option(
    "--batch-size", type=click.IntRange(1, 2**31 - 1), help="Images a step."
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
    batch_size_option,
    click.option("--lr", type=NOT_NEGATIVE, help="Learning rate at the first step."),
    click.option("--end-lr", type=NOT_NEGATIVE, help="Learning rate after the last step."),
    click.option("--dropout", type=SHARE_BELOW_1, help="Rate before the linear layer."),
)

run_options = _all(
    click.option(
        "--out",
        type=OutputFolder(),
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


def as_begun(recipe: Recipe, out: str, *, resume: bool) -> Recipe:
    """The recipe for the run in `out`: one that is resumed goes on as it began.

    So a run of before stays with what its recipe was when there was no other.
    """
    from larq_ensemble.runs import load_run

    if not resume or not Path(out, "config.json").is_file():
        return recipe
    return recipe.as_begun(load_run(out).config.recipe)


def refuse_options_of_data() -> None:
    """Refuses the options of data for a run of 0 epochs, which reads none."""
    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        if given and parameter.name in _OF_DATA:
            raise click.UsageError(
                f"{parameter.opts[0]} has no effect: a run of 0 epochs reads no data. Leave it out."
            )


_OF_DATA = ("data_dir", "limit_test", "limit_train", "augment", "class_weights")
