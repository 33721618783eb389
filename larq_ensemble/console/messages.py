"""Translates library errors for the command line: `` `limit_train` `` becomes --limit-train.

The library names Python arguments in backticks, alone or with a value. Names that are not options
of the running command stay unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import click

_ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]+))?`")
_QUOTES = "'\""
_SIZE = re.compile(r"\((\d+), (\d+)\)")


class Command(click.Command):
    """A command with options whose library arguments have other names.

    # Arguments
        arguments: library argument -> parameter of the option, such as
            `{"weight": "distill_weight"}`.
    """

    def __init__(self, *args: Any, arguments: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.arguments = arguments


def in_options(message: str, command: click.Command) -> str:
    """Replaces the backticked arguments in a message by the options of a command.

    `` `lr` `` becomes `--lr`, `` `resume=True` `` `--resume`, a flag, `` `initial='random'` ``
    `--initial random`, `` `image_size=(64, 64)` `` `--image-size 64x64`.

    # Arguments
        message: of an `EnsembleError`.
        command: the one that failed.
    """
    options = _options(command)
    flags = {
        name
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name, option in options.items()
        if parameter.is_flag and option in parameter.opts
    }

    def replace(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in options:
            return match[0]
        if value is None or name in flags:
            return options[name]
        as_typed = _SIZE.sub(r"\1x\2", value).strip(_QUOTES)
        return f"{options[name]} {as_typed}"

    return _ARGUMENT.sub(replace, message)


def _options(command: click.Command) -> dict[str, str]:
    """Options by their names in the library and in the command's function."""
    options = {}
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name:
            option = max(parameter.opts, key=len)
            options[parameter.name] = options[option.lstrip("-").replace("-", "_")] = option
    if isinstance(command, Command):
        options |= {name: options[parameter] for name, parameter in command.arguments.items()}
    return options
