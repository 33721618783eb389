"""Learning curves: the picture, and what is wrong in one line."""

from __future__ import annotations

import struct

import pytest
from click.testing import CliRunner

from larq_ensemble.cli import run_command

from .conftest import load


@pytest.fixture(scope="module")
def main():
    return load("curves").main


def test_a_picture_of_two_runs(main, tmp_path) -> None:
    for name in ("a", "$b$"):  # two dollars are no mathematics
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.csv").write_text("epoch,loss,val_accuracy\n0,2.0,0.25\n1,1.5,0.5\n")
    out = tmp_path / "curves.png"
    done = CliRunner().invoke(main, [str(tmp_path / "a"), str(tmp_path / "$b$"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert done.output.count("val_accuracy 50.00 %") == 2
    assert struct.unpack(">II", out.read_bytes()[16:24]) == (990, 396)  # 9 x 3.6 inches at 110 dpi


@pytest.mark.parametrize(
    "log", [None, "epoch,loss,val_accuracy\n", "epoch,loss,accuracy\n0,2.0,0.5\n"]
)
def test_a_run_without_what_is_drawn(main, tmp_path, log, capsys) -> None:
    if log is not None:
        (tmp_path / "log.csv").write_text(log)
    with pytest.raises(SystemExit) as end:
        run_command(main, [str(tmp_path), "--out", str(tmp_path / "curves.png")], "curves.py")
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (1, "")
    assert err.startswith("curves.py: error: ")
    assert err.count("\n") == 1
    assert "log.csv" in err
