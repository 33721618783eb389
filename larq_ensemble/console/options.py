"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click


class CommaSeparated(click.ParamType):
    """Comma-separated values as a tuple: `1,4,9` -> `(1, 4, 9)`.

    # Arguments
        name: the list's name in `--help`.
        item: click's type of each value.
        what: the values with an example, for the error message.
        collect: a function of the list, for example to sort it.
    """

    def __init__(
        self,
        name: str,
        item: click.ParamType,
        what: str,
        collect: Callable[[list[Any]], Iterable[Any]] = tuple,
    ) -> None:
        self.name = name
        self._item, self._what, self._collect = item, what, collect

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        try:
            values = [self._item.convert(each, param, ctx) for each in value.split(",")]
        except click.BadParameter:
            self.fail(f"{value!r} is not a list of {self._what}.", param, ctx)
        return tuple(self._collect(values))


numbers = CommaSeparated("N,N,...", click.FLOAT, "numbers such as 1,4,9")
names = CommaSeparated("NAME,...", click.STRING, "names such as fusion,voting", dict.fromkeys)
#: Numbers of members, ascending and without duplicates.
member_counts = CommaSeparated(
    "M,M,...",
    click.IntRange(1),
    "whole numbers from 1 on such as 2,4",
    lambda counts: sorted(set(counts)),
)

seed_option = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Seed of everything random.",
)

data_dir_option = click.option(
    "--data-dir",
    metavar="DIR",
    help="Folder of TensorFlow Datasets that holds the data set; nothing is downloaded into it  "
    "[default: ~/tensorflow_datasets, with a download if need be]",
)

limit_test_option = click.option(
    "--limit-test", type=click.IntRange(1), metavar="N", help="Only the first N test images."
)
