"""Options that several commands share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from typing import Any

import click

from larq_ensemble.files import check_output, check_output_folder
from larq_ensemble.pretrained.catalog import tflite_path


class FiniteFloat(click.FloatRange):
    """A number in a range; neither nan nor infinite, which `click.FloatRange` lets pass."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class UserPath(click.Path):
    """A path with `~` expanded, which shells leave in `--out=~/x`.

    Whether a file is there, and is what it should be, the library says.
    """

    def __init__(self) -> None:
        super().__init__(readable=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return os.path.expanduser(os.fsdecode(super().convert(value, param, ctx)))


class Tflite(UserPath):
    """A `.tflite` file to read, or the name of a network of `larq_ensemble.pretrained`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return os.fspath(tflite_path(super().convert(value, param, ctx)))


class OutputFile(UserPath):
    """A file to write, checked before the work.

    # Arguments
        suffixes: of the files, where the option names a stem.
    """

    def __init__(self, *suffixes: str) -> None:
        super().__init__()
        self._suffixes = suffixes or ("",)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value == "-":
            self.fail("Only --json writes to standard output: name a file.", param, ctx)
        path = super().convert(value, param, ctx)
        named = bool(os.path.basename(path))  # a stem that is empty or a folder gives hidden files
        for suffix in self._suffixes if named else ("",):
            check_output(f"{path}{suffix}", _name(param))
        return path


class OutputFolder(UserPath):
    """A folder to write files into, checked before the work."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        path = super().convert(value, param, ctx)
        check_output_folder(path, _name(param))
        return path


def _name(param: click.Parameter | None) -> str:
    return (param.name if param is not None else None) or "path"


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


#: A path to read.
INPUT = UserPath()
TFLITE = Tflite()
POSITIVE = FiniteFloat(0, min_open=True)
NOT_NEGATIVE = FiniteFloat(0)
#: A share of a whole, and one that leaves something of it.
SHARE = FiniteFloat(0, 1)
SHARE_BELOW_1 = FiniteFloat(0, 1, max_open=True)

numbers = CommaSeparated("N,N,...", FiniteFloat(), "numbers such as 1,4,9")
names = CommaSeparated("NAME,...", click.STRING, "names such as fusion,voting", dict.fromkeys)
#: Numbers of members, ascending and without duplicates.
member_counts = CommaSeparated(
    "M,M,...",
    click.IntRange(1),
    "whole numbers from 1 on such as 2,4",
    lambda counts: sorted(set(counts)),
)

# Bounds that no network needs, so that a slip of the finger is an error and not a full memory.
members_option = click.option(
    "--members", type=click.IntRange(1, 1000), default=4, show_default=True, help="M, how many."
)

WIDTH = FiniteFloat(0, 100, min_open=True)

width_option = click.option(
    "--width", type=WIDTH, default=1.0, show_default=True, help="Multiplies channels."
)

seed_option = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Seed of everything random.",
)


class ImageSize(click.ParamType):
    """A size as (height, width): `64x48`, or `64` for 64x64."""

    name = "HxW"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        sides = value.lower().split("x")
        if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
            self.fail(f"{value!r} is not a size such as 64x48 (height x width) or 64.", param, ctx)
        return int(sides[0]), int(sides[-1])


#: How data sets are given, for help.
SPECS = "digits, cifar10, cifar100, folder:DIR, npz:FILE or tfds:NAME"

dataset_option = click.option(
    "--dataset",
    metavar="SPEC",
    help="Where the data are now, or other data of the same classes and image size; of a Keras "
    f"file the data that it is for: {SPECS}  [default: the run's]",
)

normalization_option = click.option(
    "--normalization",
    metavar="N",
    help="How the images of a Keras file were scaled, if it doesn't say so: raw (0 to 255), 0..1, "
    "-1..1, dataset (by the mean and std of --dataset) or MEAN/STD on the scale 0 to 1.",
)

data_dir_option = click.option(
    "--data-dir",
    type=INPUT,
    metavar="DIR",
    help="Folder of TensorFlow Datasets that holds the data set; it is only read. To download "
    "elsewhere than by default, set TFDS_DATA_DIR.  "
    "[default: TFDS_DATA_DIR or ~/tensorflow_datasets, with a download if need be]",
)

#: What a limit of images keeps, for `--help`.
LIMITED = "the first N, or of data of your own N that are drawn, always the same"

limit_test_option = click.option(
    "--limit-test",
    type=click.IntRange(1),
    metavar="N",
    help=f"Only some test images: {LIMITED}.",
)
