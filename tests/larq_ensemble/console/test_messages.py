"""Messages of the library, as the command line words them."""

import ast
import re
from pathlib import Path

import click
import pytest

import larq_ensemble
from larq_ensemble.cli import COMMANDS, cli
from larq_ensemble.console.messages import Command, in_options
from larq_ensemble.errors import EnsembleError


@click.command(cls=Command, arguments={"weight": "distill_weight", "damaged": "skip_damaged"})
@click.argument("run")
@click.option("--limit-train", type=int)
@click.option("--dataset", "dataset_name")
@click.option("-e", "--epochs", type=int)
@click.option("--resume", is_flag=True)
@click.option("--distill-weight", type=float)
@click.option("--skip-damaged", is_flag=True)
@click.option("--image-size")
def command(**_: object) -> None:
    raise EnsembleError("unused")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("`limit_train` must be at least 2.", "--limit-train must be at least 2."),
        ("`dataset_name` or `dataset`", "--dataset or --dataset"),
        ("fewer `epochs`", "fewer --epochs"),
        ("go on with `resume=True`,", "go on with --resume,"),
        ("leave out by `damaged='skip'`", "leave out by --skip-damaged"),
        ("use `epochs=6`.", "use --epochs 6."),
        ("give `image_size=(48, 64)` or", "give --image-size 48x64 or"),
        ("set `dataset_name='digits'`", "set --dataset digits"),
        ("`weight` must be from 0 to 1", "--distill-weight must be from 0 to 1"),
        # What is no option stays: arguments of the library alone, files, programs, positionals.
        ("`images` is empty", "`images` is empty"),
        ("`run` is", "`run` is"),
        ("the folder that holds `epochs/`", "the folder that holds `epochs/`"),
        ("`larq-ensemble train`", "`larq-ensemble train`"),
        ("epochs and resume=True", "epochs and resume=True"),
    ],
)
def test_arguments_become_options(message, expected):
    assert in_options(message, command) == expected


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_found_by_the_name_that_it_has_in_python(name):
    context = click.Context(cli)
    found = cli.get_command(context, name)
    assert found is not None
    for parameter in found.params:
        if isinstance(parameter, click.Option):
            option = max(parameter.opts, key=len)
            as_written = option.lstrip("-").replace("-", "_")
            assert in_options(f"`{as_written}`, `{parameter.name}`", found) == f"{option}, {option}"
    if isinstance(found, Command):
        assert set(found.arguments.values()) <= {parameter.name for parameter in found.params}


def library_modules():
    root = Path(larq_ensemble.__file__).parent
    folders = (root, root / "training", root / "convert")  # two of them are links
    files = {file for folder in folders for file in folder.rglob("*.py")}
    command_line = {"commands", "console", "cli.py", "demo"}
    return sorted(file for file in files if not command_line & set(file.relative_to(root).parts))


def test_the_library_names_arguments_not_options():
    modules = library_modules()
    assert len(modules) > 50
    for module in modules:
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Raise):
                continue
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    assert not re.search(r"(^|\s)--[a-z]", part.value), (module, part.value)
