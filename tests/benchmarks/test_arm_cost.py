"""The instruction benchmark with a counter that counts bytes."""

from __future__ import annotations

import dataclasses
import json
import sys

import click
import pytest

from larq_ensemble.convert.conversion import convert_run
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runs import load_run
from larq_ensemble.runtime.file import read_ensemble
from larq_ensemble.training.points import read_points

from .conftest import load


def called(*arguments: object) -> None:
    """Calls the script in this process, which saves to import TensorFlow once more."""
    load("arm_cost").main.main(list(map(str, arguments)), standalone_mode=False)


def test_counts_a_member_and_the_ensemble(counter, run, tflite, tmp_path, capsys) -> None:
    out = tmp_path / "result.json"
    called("--counter", counter, "--run", run, tflite, "--json", out)
    result = json.loads(out.read_text())
    size = tflite.stat().st_size
    single = result["single"]["default"] // 3
    assert result["single"]["indirect"] == 2 * single
    assert [row["kernel"] for row in result["files"]] == ["default", "indirect"]
    for row, each in zip(result["files"], (3, 2), strict=True):
        assert row["members"] == 3
        # What members have in common once per image, then each member.
        assert row["instructions_once"] == row["instructions_member"] == each * size
        assert row["instructions_ensemble"] == (1 + 3) * each * size
        assert row["ratio"] == pytest.approx((1 + 3) * size / (3 * single))
    assert "indirect" in capsys.readouterr().out


def test_all_members_at_once(counter, run, tmp_path) -> None:
    path = tmp_path / "branches.tflite"
    convert_run(load_run(run), path, layout="branches")
    counted = load("arm_cost").counted(str(counter), read_ensemble(path), "indirect")
    assert counted == (2 * path.stat().st_size, 0)


def test_xnnpack_is_asked_for_in_all_files(counter, run, tflite, tmp_path) -> None:
    results = {}
    for flags in ((), ("--xnnpack",)):
        out = tmp_path / "result.json"
        called("--counter", counter, "--run", run, tflite, *flags, "--json", out)
        results[flags] = json.loads(out.read_text())
    plain, fast = results.values()
    assert fast["single"]["default"] == plain["single"]["indirect"]
    assert [row["xnnpack"] for row in fast["files"]] == [True, True]
    assert fast["files"][0]["instructions_member"] == plain["files"][1]["instructions_member"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit('no emulator here')", "no emulator here"),
        ("print('12 instructions')", "no JSON object with a number of `instructions`"),
        ("print([1])", "no JSON object"),
    ],
)
def test_a_counter_that_does_not_work(counter, tflite, code, message) -> None:
    counter.write_text(f"#!{sys.executable}\n{code}\n")
    with pytest.raises(EnsembleError, match=message):
        load("arm_cost").instructions(str(counter), tflite, "default")


def test_litert_is_counted_on_each_core(run, counter, tflite, tmp_path, monkeypatch) -> None:
    module = load("arm_cost")
    stand_in = tmp_path / "count.py"
    stand_in.write_text(
        "import json, sys\n"
        "file, _, cpu, _, kernel = sys.argv[1:]\n"
        "each = {'delegate': 100, 'builtin': 500}[kernel] + int(cpu.removeprefix('cortex-a'))\n"
        "print(json.dumps({'instructions_once': 7, 'instructions_member': each}))\n"
    )
    monkeypatch.setattr(module, "COUNT", stand_in)
    out = tmp_path / "result.json"
    arguments = ["--cpu", "cortex-a72", "--cpu", "cortex-a76", tflite, "--json", out]
    module.main.main([*map(str, arguments)], standalone_mode=False)
    rows = json.loads(out.read_text())["files"]
    assert [(row["cpu"], row["kernel"], row["instructions_ensemble"]) for row in rows] == [
        ("cortex-a72", "delegate", 7 + 3 * 172),
        ("cortex-a72", "builtin", 7 + 3 * 572),
        ("cortex-a76", "delegate", 7 + 3 * 176),
        ("cortex-a76", "builtin", 7 + 3 * 576),
    ]
    assert [row["ratio"] for row in rows] == [None] * 4  # no counter, so no reference
    assert {row["bytes"] for row in rows} == {tflite.stat().st_size}
    arguments += ["--counter", counter, "--run", run]
    module.main.main([*map(str, arguments)], standalone_mode=False)
    result = json.loads(out.read_text())
    assert [row["backend"] for row in result["files"]] == ["lce"] * 2 + ["litert"] * 4
    best = min(result["single"].values())
    assert result["files"][2]["ratio"] == pytest.approx((7 + 3 * 172) / (3 * best))
    recorded = tmp_path / "recorded.tflite"
    recorded.write_bytes(tflite.read_bytes())
    module.main.main(["--cpu", "cortex-a76", "--record", str(recorded)], standalone_mode=False)
    assert read_ensemble(recorded).metadata.instructions == {
        "cortex-a76, litert delegate": {"image": 7, "member": 176},
        "cortex-a76, litert builtin": {"image": 7, "member": 576},
    }
    stand_in.write_text("import sys; sys.exit('no QEMU here')")
    with pytest.raises(EnsembleError, match=r"^no QEMU here$"):
        module.litert_row(str(tflite), "cortex-a72", "builtin", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "Give --cpu"), (["--counter", "x"], "belong together"), (["--run", "x"], "Give --cpu")],
)
def test_what_to_count_must_be_said(options, message) -> None:
    with pytest.raises(click.UsageError, match=message):
        load("arm_cost").main.main([*options, "f.tflite"], standalone_mode=False)


def test_errors_are_one_line(script, run, tflite) -> None:
    done = script("arm_cost", "--counter", "/missing", "--run", run / "missing", tflite)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "No run at" in done.stderr
    with pytest.raises(EnsembleError, match="--counter '/missing' can't be run"):
        load("arm_cost").instructions("/missing", tflite, "default")


def test_points_of_calibrated_files(tflite, tmp_path) -> None:
    """Of each core the kernel that takes least, for each number of members."""
    script, file = load("arm_cost"), str(tflite)
    ensemble = read_ensemble(tflite)
    rows = [
        {"file": file, "cpu": core, "instructions_once": once, "instructions_member": member}
        for core, once, member in (("a", 10, 100), ("a", 20, 50), ("b", 1, 2), (None, 0, 1))
    ]
    assert script.points({file: ensemble}, rows) == {}  # nobody knows its accuracy
    metadata = dataclasses.replace(ensemble.metadata, top1=(50.0, 60.0, 62.5))
    found = script.points({file: dataclasses.replace(ensemble, metadata=metadata)}, rows)
    (tmp_path / "points.json").write_text(json.dumps(found))
    points = read_points([tmp_path / "points.json"])
    assert [(point.members, point.top1) for point in points] == [(1, 50), (2, 60), (3, 62.5)]
    assert [point.instructions for point in points] == [
        {"a": 70, "b": 3}, {"a": 120, "b": 5}, {"a": 170, "b": 7},
    ]  # fmt: skip
    assert points[0].bytes < points[1].bytes < points[2].bytes
    assert {point.split for point in points} == {"validation"}
