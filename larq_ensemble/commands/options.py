"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from larq_ensemble.models import MODELS

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class NumberList(click.ParamType):
    """Numbers with commas between: `1,4,9` -> `(1.0, 4.0, 9.0)`."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(number) for number in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 1,4,9.", param, ctx)


def _all(*decorators: Decorator) -> Decorator:
    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


model_option = click.option(
    "--model",
    "model_name",
    default="resnet20",
    show_default=True,
    help=f"{', '.join(name for name, model in MODELS.items() if model.binary)}, or the "
    "real-valued twin of one, such as resnet20_real.",
)


class NameList(click.ParamType):
    """Names with commas between: `fusion,voting` -> `("fusion", "voting")`."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(dict.fromkeys(value.split(",")))


class MemberCounts(click.ParamType):
    """Numbers of members, such as `1,2,4`, as an ascending tuple."""

    name = "M,M,..."

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            counts = {int(part) for part in value.split(",")}
        except ValueError:
            counts = {0}
        if min(counts) < 1:
            self.fail(f"{value!r} is no list of whole numbers from 1 on, such as 2,4.")
        return tuple(sorted(counts))


member_counts = MemberCounts()

seed_option = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of everything that is random.",
)

data_dir_option = click.option(
    "--data-dir",
    metavar="DIR",
    help="Where TensorFlow Datasets keeps its data  [default: ~/tensorflow_datasets]",
)

limit_test_option = click.option(
    "--limit-test", type=click.IntRange(1), metavar="N", help="Only the first N test images."
)

data_options = _all(
    data_dir_option,
    click.option(
        "--limit-train", type=click.IntRange(2), metavar="N", help="Only N training images."
    ),
    limit_test_option,
)

recipe_options = _all(
    click.option(
        "--recipe",
        "recipe_name",
        default="paper",
        show_default=True,
        help="paper (Kim et al. 2022), short (2 CPU cores), or for train the file that tune wrote; "
        "the options below override it.",
    ),
    click.option("--epochs", type=click.IntRange(0), help="0: an untrained run, without data."),
    click.option("--batch-size", type=click.IntRange(1), help="Images a step."),
    click.option("--lr", type=float, help="Learning rate at the first step."),
    click.option("--end-lr", type=float, help="Learning rate after the last step."),
    click.option("--dropout", type=float, help="Rate before the linear layer."),
)

run_options = _all(
    click.option(
        "--out", required=True, metavar="RUN", help="The run directory to write; never overwritten."
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
    help="mirrored (all GPUs of this host) or multiworker (start the same command on each of the "
    "hosts in TF_CONFIG, with an --out that all see). --batch-size counts the images on all of "
    "them.  [default: one device]",
)
