"""Every option of every command refuses what it can't use while the command line is read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import click
import pytest

from larq_ensemble.cli import COMMANDS, cli, main
from larq_ensemble.console.options import (
    CommaSeparated,
    FiniteFloat,
    OutputFile,
    OutputFolder,
    names,
    numbers,
)

NUMERIC = (click.IntRange, click.FloatRange, CommaSeparated)


def options_of(is_wanted: Callable[[click.ParamType], bool]) -> list[tuple[str, click.Option]]:
    context = click.Context(cli)
    return [
        (name, option)
        for name in COMMANDS
        for option in getattr(cli.get_command(context, name), "params", ())
        if isinstance(option, click.Option) and is_wanted(option.type)
    ]


def numeric_options() -> list[tuple[str, click.Option]]:
    return [
        (name, option)
        for name, option in options_of(lambda kind: isinstance(kind, NUMERIC))
        if option.type is not names
    ]


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """Runs a command that must end with one line on stderr, and returns code and line."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("larq-ensemble: error: ")
        assert err.count("\n") == 1, arguments
        return end.value.code, err

    return run


def test_numbers_have_a_range():
    """Of click's own, FLOAT and FloatRange take nan, and INT takes -1."""
    assert not options_of(lambda kind: kind in (click.FLOAT, click.INT))
    for name, option in options_of(lambda kind: isinstance(kind, click.FloatRange)):
        assert isinstance(option.type, FiniteFloat), (name, option.name)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "1e999", "many", "", "²"])
def test_no_number_is_taken_on_trust(refused, value):
    for name, option in numeric_options():
        if value == "-1" and option.type is numbers:
            continue  # what it means is the scheme's
        code, line = refused(name, option.opts[0], value)
        assert code == 2, (name, option.opts)
        # After an option that may stand without a value, click takes -1 for another option.
        is_option = option.opts[0] == "--keep-pretrained" and value.startswith("-")
        expected = "No such option '-" if is_option else f"Invalid value for '{option.opts[0]}'"
        assert expected in line, (name, line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("storage --width 1e9", "1000000000.0 is not in the range 0<x<=100"),
        ("storage --width 0", "0.0 is not in the range 0<x<=100"),
        ("pretrain --validation 1", "1.0 is not in the range 0<=x<1"),
        ("pretrain --dropout 1", "1.0 is not in the range 0<=x<1"),
        ("pretrain --distill-weight 1.5", "1.5 is not in the range 0<=x<=1"),
        ("pretrain --limit-train 0", "0 is not in the range x>=2"),
        ("pretrain --batch-size 0", "0 is not in the range 1<=x<=2147483647"),
        ("pretrain --batch-size 1e9", "'--batch-size': '1e9' is not a whole number. See"),
        ("train --members two", "'--members': 'two' is not a whole number. See"),
        ("storage --width wide", "'--width': 'wide' is not a number. See"),
        ("train --members 1000000000", "1000000000 is not in the range 1<=x<=1000"),
        ("train --shrinkage 0", "0.0 is not in the range x>0"),
        ("train --prefix-weights 1,nan", "'1,nan' is not a list of numbers"),
        ("predict --max-latency-ms 0", "0.0 is not in the range x>0"),
        ("benchmark --members 1,inf", "'1,inf' is not a list of whole numbers"),
    ],
)
def test_ranges(refused, arguments, message):
    code, line = refused(*arguments.split())
    assert code == 2
    assert message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --pretrained n8.tflite --out new", "'n8.tflite' is a file that can't be taken"),
        ("evaluate photo.png", "'photo.png' is a file that can't be taken here: give a directory"),
        ("evaluate none.keras", "No run at 'none.keras' (there is no such file or directory)"),
        (
            "pretrain --from-backbone backbone.keras --out new",
            "'backbone.keras' is a Keras file, and this needs a run: `pretrain` with it as --model "
            "and 0 --epochs makes one.",
        ),
        ("convert photo.png --out q.tflite", "'photo.png' is no .tflite model, no run and no K"),
        *(
            (line, "'run' is a run: convert it first, by `larq-ensemble convert`, and give")
            for line in (
                "calibrate run",
                "predict run photo.png",
                "inspect run",
                "export run --out new",
                "web run --out new",
                "benchmark run",
            )
        ),
        ("calibrate none.tflite", "There is no file 'none.tflite': give one that `larq-ensemble c"),
    ],
)
def test_a_path_to_something_else(refused, tmp_path, arguments, message):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / "n8.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    (tmp_path / "backbone.keras").write_bytes(b"PK\x03\x04")
    code, line = refused(*arguments.split())
    assert code == 1
    assert message in line


@pytest.mark.parametrize(("inside", "run"), [(False, "run"), (True, ".")])
def test_the_file_of_a_run_in_place_of_the_run(refused, tmp_path, monkeypatch, inside, run):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "run" / "model.keras").write_bytes(b"PK\x03\x04")
    if inside:
        monkeypatch.chdir("run")
    path = "model.keras" if inside else "run/model.keras"
    code, line = refused("pretrain", "--from-backbone", path, "--out", "new")
    assert code == 1
    assert f"{path!r} is a Keras file, and this needs a run: give {run!r}, its run." in line


def test_every_output_is_checked_while_the_command_line_is_read(refused, tmp_path):
    (tmp_path / "file").write_text("")
    outputs = options_of(lambda kind: isinstance(kind, (OutputFile, OutputFolder)))
    assert {name for name, _ in outputs} == {
        *("demo", "pretrained", "pretrain", "train", "evaluate", "convert", "calibrate"),
        *("reproduce", "frontier", "tune", "web", "export"),
    }
    for name, option in outputs:
        code, line = refused(name, option.opts[0], "file/new")
        assert code == 1
        assert f"{option.opts[0]} 'file/new" in line
        assert "can't be written ('file' is no folder)" in line.replace(str(tmp_path) + os.sep, "")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("stem", ["", "new/"])
def test_a_stem_has_a_name(refused, tmp_path, stem):
    code, line = refused("calibrate", "a.tflite", "--plot", stem)
    assert code == 1
    assert f"--plot '{stem}' can't be written" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", ["storage more", "storage --nothing", "nothing"])
def test_a_usage_error_is_sentences(refused, arguments):
    code, line = refused(*arguments.split())
    assert code == 2
    assert re.search(r"[.?] See `larq-ensemble", line)


def test_only_json_writes_to_standard_output(refused):
    code, line = refused("convert", "run", "--out", "-")
    assert code == 2
    assert "Only --json writes to standard output" in line


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        ("inspect a.tflite --json ./a.tflite", "a.tflite"),
        ("predict a.tflite b.png c.png --json c.png", "c.png"),
        ("verify a.tflite --run r --json link", "a.tflite"),
        ("convert r --out a.tflite --json a.tflite", "--out"),
        ("calibrate a.tflite --json a.tflite", "a.tflite"),
        ("benchmark a.tflite --json a.tflite", "a.tflite"),
    ],
)
def test_the_result_does_not_replace_another_file_of_the_command(
    refused, tmp_path, arguments, file
):
    (tmp_path / "link").symlink_to("a.tflite")
    code, line = refused(*arguments.split())
    assert code == 1
    assert f"can't be written (it is the file of {file})" in line
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_the_demo_does_not_replace_files_of_others(refused, tmp_path):
    (tmp_path / "ensemble.tflite").write_bytes(b"mine")
    for data in ([], ["--dataset", "cifar100"]):
        code, line = refused("demo", "--out", ".", *data)
        assert code == 1
        assert "--out '.' holds ensemble.tflite, which is not of a demo" in line
    assert (tmp_path / "ensemble.tflite").read_bytes() == b"mine"


def test_the_home_folder_is_found_where_shells_do_not_expand_it(refused, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "folder").mkdir()
    for arguments in (
        "inspect a.tflite --json=~/folder",
        "convert r --out=~/folder",
        "evaluate ~/folder",
    ):
        assert f"'{tmp_path}/folder" in refused(*arguments.split())[1]
    (tmp_path / "file").write_text("")
    assert f"--out '{tmp_path}/file' is a file" in refused("frontier", "r", "--out=~/file")[1]
