"""The table of back ends, with stand-ins for what counts instructions."""

from __future__ import annotations

import json
from types import ModuleType

import pytest

from .conftest import ROOT, load


@pytest.fixture
def backends(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # scripts import each other
    module = load("backends")

    def litert_row(file, core, kernel, delegate):
        member = {"cortex-a72": 7_000_000, "cortex-a76": 2_000_000}[core]
        row = {"backend": "litert", "kernel": kernel, "cpu": core, "xnnpack": True}
        return row | {"instructions_once": 1_000_000, "instructions_member": member}

    monkeypatch.setattr(module.arm_cost, "litert_row", litert_row)
    monkeypatch.setattr(module, "resident_bytes", lambda *_, **__: 4096)
    return module


def called(backends, run, tflite, folder, *options) -> tuple[list[dict], list[list[str]]]:
    """The rows and the cells of the table's lines."""
    rows, text = folder / "rows.json", folder / "table.md"
    cores = ("--cpu", "cortex-a72", "--cpu", "cortex-a76")
    paths = ("--json", rows, "--markdown", text)
    arguments = (f"{run}={tflite}", *cores, "--images", 20, *paths, *options)
    backends.main.main(list(map(str, arguments)), standalone_mode=False)
    lines = text.read_text().splitlines()[2:]
    return json.loads(rows.read_text()), [line.strip("| ").split(" | ") for line in lines]


def test_one_line_for_each_way(backends, counter, run, tflite, tmp_path, monkeypatch) -> None:
    common = (backends, run, tflite, tmp_path, "--counter", counter, "--kernel", "indirect")
    rows, lines = called(*common, "--kernel", "builtin")
    assert [line[1:3] for line in lines] == [
        ["LCE", "lce indirect"],
        ["LCE", "litert builtin"],
        ["int8", "litert builtin"],
        ["1bit", "litert builtin"],
    ]
    lce, builtin, _, _ = lines
    assert lce[3:5] == [f"{tflite.stat().st_size:,}", "4,096"]
    assert lce[9] == "1.00"  # what the times are compared with
    # The trunk costs both cores the same, a member doesn't.
    assert builtin[5:8] == ["1.00", "7.00, 2.00", "22.00, 7.00"]
    # Each runs what Keras computes.
    assert {cell for line in lines for cell in line[10:]} == {"100.0 %"}
    single = rows[0]["instructions_ensemble"] / (3 * rows[0]["ratio"])
    assert rows[1]["ratio"] == pytest.approx(22_000_000 / (3 * single))

    # One kernel measured anew: the other lines stay.
    monkeypatch.setattr(backends, "resident_bytes", lambda *_, **__: 8192)
    _, again = called(*common, "--plot", tmp_path / "plot")
    assert [line[4] for line in again] == ["8,192", "4,096", "4,096", "4,096"]
    assert again[1:] == lines[1:]
    assert (tmp_path / "plot.png").stat().st_size > 10_000
