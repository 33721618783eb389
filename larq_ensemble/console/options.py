"""Options that several commands share."""

from __future__ import annotations

from typing import Any

import click


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
