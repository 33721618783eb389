"""What the pages name is there: files, modules, functions, options of commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from larq_ensemble.cli import COMMANDS, cli

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
#: A command in a line of code, or between backticks.
CALL = r"(?:^ +(?:\w+=\")?|`)larq-ensemble ([a-z]+)([^`#;\n]*)"
FOLDERS = "larq_ensemble|training|convert|tests|benchmarks|examples|docs|tools"

#: Files that a guide has its reader write.
TO_WRITE = {"convert/passes/reshape_chains.py", "tests/convert/passes/test_reshape_chains.py"}


def ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(params=PAGES, ids=ids)
def page(request) -> str:
    return request.param.read_text(encoding="utf-8")


def test_files(page):
    named = re.findall(rf"(?<![\w/.-])((?:{FOLDERS})/[\w/.-]*\w)", page)
    stems = {name for name in named if (ROOT / f"{name}.png").exists()}  # as --out takes them
    there = TO_WRITE | stems
    assert [name for name in named if not (ROOT / name).exists() and name not in there] == []


def test_no_place_on_the_machine_of_whoever_wrote_it(page):
    """Commands that scripts write into pages are typed with paths that readers have, too."""
    assert re.findall(r"(?<![\w.~/])/(?:root|home|work|Users)/\S*", page) == []


def test_modules_and_what_is_in_them(page):
    for name in set(re.findall(r"(?<![\w.-])larq_ensemble(?:\.\w+)+", page)):
        assert is_defined(name), name


def is_defined(name: str) -> bool:
    """Whether a dotted name is a module, or is defined at the top of one; imports nothing."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:count])
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if source.exists():
            rest = parts[count:]
            pattern = rf"\b{re.escape(rest[0])}\b" if rest else ""
            return re.search(pattern, source.read_text(encoding="utf-8")) is not None
    return False


def test_commands_and_their_options(page):
    lines = re.sub(r" *\\\n +", " ", page).splitlines()
    for line in lines:
        for command, arguments in re.findall(CALL, line):
            assert command in COMMANDS, line
            known = {
                option
                for parameter in cli.get_command(None, command).params
                for option in parameter.opts
            }
            assert set(re.findall(r"(?<!\w)--[a-z0-9-]+", arguments)) <= {*known, "--help"}, line


def test_the_readme_lists_every_command():
    table = re.findall(
        r"^\| (`[a-z`, ]+`) \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE
    )
    listed = re.findall(r"`([a-z]+)`", " ".join(table))
    assert sorted(set(listed) & set(COMMANDS)) == sorted(COMMANDS)
