import json
import subprocess
import sys
from pathlib import Path

import pytest

from larq_ensemble.console.reporting import Report, cell, reporting, visible
from larq_ensemble.errors import EnsembleError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("fusion", "fusion"),
        (True, "True"),
        (0, "0"),
        (1234567, "1,234,567"),
        (1234.567, "1,234.57"),
        (-3.14159, "-3.14"),
        (0.05, "0.0500"),
        (1.0, "1.00"),
    ],
)
def test_cells(value, text):
    assert cell(value) == text


def test_a_table_off_the_terminal_keeps_its_columns(capsys):
    names = [f"column number {index}" for index in range(8)]
    Report().table("A title", names, [range(8), [None] * 8])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "A title"
    assert all(name in lines[2] for name in names)
    assert sum("-" in line.replace("─", "") for line in lines) == 1


def test_the_result_is_written_when_all_went_well(tmp_path, capsys):
    target = tmp_path / "result.json"
    with reporting(str(target)) as report:
        report.line("half way")
        report.result = {"top1": 33.5, "by_members": [1, float("inf")], "nll": {"a": float("nan")}}
        assert not target.exists()
    expected = {"top1": 33.5, "by_members": [1, None], "nll": {"a": None}}
    assert json.loads(target.read_text(), parse_constant=pytest.fail) == expected
    assert capsys.readouterr().out == "half way\n"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_an_older_result_alone(tmp_path):
    target = tmp_path / "result.json"
    target.write_text('{"older": 1}')
    with pytest.raises(EnsembleError, match="wrong"), reporting(str(target)):
        raise EnsembleError("wrong")
    assert target.read_text() == '{"older": 1}'


@pytest.mark.parametrize("older", [b"", b'{"older": 1}\n', b"\n[1]", b"\xef\xbb\xbf{}"])
def test_an_older_result_is_replaced(older, tmp_path):
    target = tmp_path / "result.json"
    target.write_bytes(older)
    with reporting(str(target)) as report:
        report.result = {"top1": 1}
    assert json.loads(target.read_text()) == {"top1": 1}


@pytest.mark.parametrize("other", [b"\x1c\0\0\0TFL3", b"\x89PNG", b"[tool]\na = 1", b"\0"])
def test_a_file_of_another_kind_is_not_replaced(other, tmp_path):
    target = tmp_path / "n8.tflite"
    target.write_bytes(other)
    refused = pytest.raises(EnsembleError, match=r"--json '.*n8\.tflite' .* no JSON that could be")
    with refused, reporting(str(target)):
        pytest.fail("The work was begun.")
    assert target.read_bytes() == other


def test_the_configuration_of_a_run_is_not_replaced(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    refused = pytest.raises(EnsembleError, match="it is the configuration of a run")
    with refused, reporting(str(tmp_path / "config.json")):
        pytest.fail("The work was begun.")


def test_a_target_that_cannot_be_written_is_told_before_the_work(tmp_path):
    for target in (tmp_path, tmp_path / "missing" / "result.json"):
        unwritable = pytest.raises(EnsembleError, match=r"--json .* can't be written")
        with unwritable, reporting(str(target)):
            pytest.fail("The work was begun.")
    assert not any(tmp_path.iterdir())


def test_no_target_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with reporting(None) as report:
        report.result = {"top1": 1}
    assert not any(tmp_path.iterdir())


def run(code: str) -> subprocess.CompletedProcess[str]:
    code = f"import os\nfrom larq_ensemble.console.reporting import reporting\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_standard_output_holds_nothing_but_json():
    done = run(
        "with reporting('-') as report:\n"
        "    report.line('a line')\n"
        "    report.table('a table', ['column'], [[1]])\n"
        "    os.write(1, b'from a library in C')\n"
        "    report.result = {'members': 2}\n"
    )
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"members": 2}
    assert all(text in done.stderr for text in ("a line", "a table", "from a library in C"))


def test_standard_output_stays_empty_on_failure():
    done = run("with reporting('-') as report:\n    print('work')\n    1 / 0")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("name", ["photo[copy].png", ":cat:", "set[/x].png", "[red]", "a" * 300])
def test_names_are_no_markup_and_are_never_cut(name, terminal, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    monkeypatch.setenv("COLUMNS", "40")
    Report().table(name, [name, "n"], [[name, 1]])
    out = capsys.readouterr().out
    title, *table = out.splitlines()
    assert title == name
    if terminal:  # folded, not cut
        assert "".join(out.split()).count("…") == 0
        cells = [line.split("│")[1].strip() for line in table if line.startswith("│")]
        assert "".join(cells) == name
    else:  # whole lines
        assert len(table) == 5
        assert table[3].split("│")[1].strip() == name


def test_control_characters_are_shown_not_obeyed(capsys):
    name = "a\x1b[2Jb\nc\r\x07\x9b\u202ed\udcff"
    shown = r"a\x1b[2Jb\nc\r\x07\x9b\u202ed\udcff"
    Report().line(name)
    Report().table(name, ["file"], [[name]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [shown, shown]
    assert lines[-2].strip("│ ") == shown
    # Writing of all languages stays.
    assert visible("Größe 大きさ می‌خواهم 👩‍🔬") == "Größe 大きさ می‌خواهم 👩‍🔬"
