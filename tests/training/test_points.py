"""Result files: what they hold, seeds and intervals, fronts by each cost, and the plot of all."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from larq_ensemble import pretrained
from larq_ensemble.cli import main
from larq_ensemble.errors import EnsembleError
from larq_ensemble.trained import open_trained
from larq_ensemble.training import frontier as comparing
from larq_ensemble.training.frontier import frontier
from larq_ensemble.training.plots import draw_frontier, save
from larq_ensemble.training.points import (
    KINDS,
    FrontierPoint,
    costs_of,
    read_points,
    with_fronts,
    write_points_csv,
)


def written(path: Path, *points: dict[str, Any], **more: Any) -> Path:
    path.write_text(json.dumps({"dataset": "digits", "points": points, **more}))
    return path


def point(name: str, top1: float, kind: str = "int8", **values: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "top1": top1, **values}


def test_seeds_and_intervals(tmp_path: Path) -> None:
    path = written(
        tmp_path / "points.json",
        point("one", 50, samples=100, bytes=7),
        *(point("three", top1, seed=seed, bytes=9) for seed, top1 in enumerate((50, 53, 56))),
        point("three", 60, seed=0, model="another width", bytes=12),
        point("unknown", 40, kind="shared", members=2, license="any other key"),
    )
    one, three, wider, unknown = read_points([path, path])
    # Wilson 1927: (p + z^2/2n ± z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2/n), z = 1.96.
    assert (one.top1_low, one.top1_high) == (
        pytest.approx(40.38, abs=0.005), pytest.approx(59.62, abs=0.005),
    )  # fmt: skip
    assert (three.top1, three.top1_low, three.top1_high, three.seeds) == (53, 50, 56, 3)
    assert (wider.top1, wider.seeds, wider.bytes) == (60, 1, 12)
    assert (unknown.top1_low, unknown.members, unknown.bytes, unknown.label) == (
        None, 2, None, "unknown",
    )  # fmt: skip


def test_ensembles_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """By M, scheme and sharing; of several M the seeds are no seeds of one ensemble."""
    path = written(
        tmp_path / "points.json",
        point("ours", 55, kind="shared", members=4, trained_members=4, seed=0, bytes=9),
        point("ours", 48, kind="shared", members=4, trained_members=10, seed=0, bytes=9),
        point("ours", 49, kind="shared", members=1, trained_members=10, seed=1, bytes=5),
        *(
            point("other", 50, members=2, trained_members=2, bytes=7, **values)
            for values in ({}, {"scheme": "voting"}, {"scheme": "voting", "sharing": "c2"})
        ),
        *(point("unknown", 50 + m, members=m, bytes=m) for m in (1, 2)),
    )
    points = frontier([], tmp_path / "out", results=[path])
    assert [(point.label, point.top1, point.seeds) for point in points] == [
        ("ours, M = 4", 55, 1),
        ("ours, M = 10", 48, 1),
        ("ours, M = 10", 49, 1),
        ("other", 50, 1),
        ("other, voting", 50, 1),
        ("other, voting, sharing c2", 50, 1),
        ("unknown", 51, 1),
        ("unknown", 52, 1),
    ]
    legend = {text.get_text() for text in draw_frontier(points).legends[0].get_texts()}
    assert legend == {*(point.label for point in points), "Pareto front"}


def test_fronts_by_each_cost(tmp_path: Path) -> None:
    """Without runs no data are read, and points without a cost are left out of its front."""
    cores = [{"cortex-m4": 9.0, "cortex-a76": 1.0}, {"cortex-a76": 2.0}, {}]
    path = written(
        tmp_path / "points.json",
        point("slow", 50, bytes=30, ram_bytes=5, instructions=cores[1]),
        point("best", 60, kind="shared", bytes=40, ram_bytes=4, instructions=cores[0]),
        point("small", 40, bytes=10, instructions=cores[2]),
        split="validation",
    )
    slow, best, small = points = frontier([], tmp_path / "out", results=[path])
    assert costs_of(points) == [
        "bytes", "ram_bytes", "instructions.cortex-a76", "instructions.cortex-m4",
    ]  # fmt: skip
    assert slow.best_by == "bytes"
    assert best.best_by == "bytes ram_bytes instructions.cortex-a76 instructions.cortex-m4"
    assert small.best_by == "bytes"
    write_points_csv(tmp_path / "points.csv", points)
    with open(tmp_path / "points.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["instructions.cortex-a76"] for row in rows] == ["2.0", "1.0", ""]
    with pytest.raises(EnsembleError, match="different splits, 'validation', 'test'"):
        frontier([], tmp_path, results=[path, written(tmp_path / "test.json", point("x", 1))])


def test_files_without_counts_of_a_core_are_compared_by_bytes_and_memory(tmp_path: Path) -> None:
    """Their points have multiply-accumulates as runs have, but not the paper's energy."""
    costs = {"bytes": 30, "ram_bytes": 5, "macs": 7}
    path = written(tmp_path / "points.json", point("one", 50, **costs), point("two", 40, **costs))
    points = frontier([], tmp_path / "out", results=[path])
    assert costs_of(points) == ["bytes", "ram_bytes"]
    assert all(file.stat().st_size for file in save(draw_frontier(points), tmp_path / "frontier"))


def test_all_kinds_are_told_apart(tmp_path: Path) -> None:
    path = written(
        tmp_path / "points.json",
        *(
            point(f"{kind} {m}", 50 + m, kind, bytes=100 * m, instructions={"cortex-a72": m})
            for m, kind in enumerate(KINDS, start=1)
        ),
    )
    canvas = draw_frontier(frontier([], tmp_path / "out", results=[path]))
    storage, _ = canvas.axes
    drawn = {
        (line.get_color(), line.get_marker())
        for line in storage.lines
        if line.get_label().split()[0] in KINDS
    }
    assert len({color for color, _ in drawn}) == len({mark for _, mark in drawn}) == len(KINDS)
    svg = save(canvas, tmp_path / "frontier")[1].read_text()
    assert "Cortex-A72 (Raspberry Pi 4)" in svg


def test_points_of_one_kind_are_told_apart(tmp_path: Path) -> None:
    """A curve of one point shows no line style."""
    path = written(
        tmp_path / "points.json", *(point(str(m), 50 + m, bytes=100 * m) for m in range(1, 7))
    )
    (storage,) = draw_frontier(frontier([], tmp_path / "out", results=[path])).axes
    drawn = [line for line in storage.lines if line.get_marker() == "D"]
    assert len({line.get_fillstyle() for line in drawn}) == 6


def test_widths_are_part_of_the_titles(tmp_path: Path) -> None:
    values = dict.fromkeys(("scheme", "sharing"), "") | {
        "dataset": "d",
        "split": "test",
    }
    costs = {"bytes": 1, "macs": 1, "binary_macs": 1, "real_macs": 0, "paper_energy_mj": 1.0}
    points = [
        FrontierPoint(
            run=model,
            model=model,
            trained_members=1,
            members=1,
            top1=50,
            samples=1,
            **values,
            **costs,
        )
        for model in ("deploynet8", "deploynet8 x 1.25")
    ]
    canvas = draw_frontier(with_fronts(points))
    legend = [text.get_text() for text in canvas.legends[0].get_texts()]
    assert [title.split(",")[0] for title in legend[:2]] == ["DeployNet-8", "DeployNet-8 x 1.25"]


@pytest.mark.parametrize("dominated", [9, 10])
def test_of_many_curves_those_on_no_front_look_alike(tmp_path: Path, dominated: int) -> None:
    """Three are on the front: more accurate for more bytes. The others cost more than all."""
    front = [point(f"best {m}", 50 + m, bytes=100 * m) for m in range(1, 4)]
    behind = [point(f"other {m}", 40 + m, bytes=1000) for m in range(dominated)]
    path = written(tmp_path / "points.json", *front, *behind)
    canvas = draw_frontier(frontier([], tmp_path / "out", results=[path]))
    legend = [text.get_text() for text in canvas.legends[0].get_texts()]
    best = [f"best {m}" for m in range(1, 4)]
    each = [f"other {m}" for m in range(9)]
    others = each if dominated == 9 else ["10 others, on no front"]
    assert legend == [*best, *others, "Pareto front"]
    (storage,) = canvas.axes
    pale = [line.get_xydata().tolist() for line in storage.lines if line.get_marker() == "."]
    assert pale == [[[1.0, 40.0 + m]] for m in range(dominated) if dominated == 10]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (point("", 50), r"point 0: 'name' must be a name, got ''"),
        (point("a", 101), r"'top1' must be 0 to 100, got 101"),
        (point("a", 50, kind="int2"), r"'kind' must be one of shared, .*, got 'int2'"),
        (point("a", 50, bytes=0), r"'bytes' must be a whole number above 0, got 0"),
        (point("a", 50, members=1.5), r"'members' must be a whole number above 0, got 1\.5"),
        (point("a", 50, instructions={"m4": "1"}), r"'instructions' must be numbers above 0"),
        (
            point("a", 50, instructions={"m4": float("inf")}),
            r"'instructions' must be numbers above 0",
        ),
        (point("a", 50, seed=[1]), r"'seed' must be a whole number, got \[1\]"),
        (point("a", 50, members=3, trained_members=2), r"'members' must be at most .*, 2, got 3"),
        ([], r"point 0 must be an object, got \[\]"),
    ],
)
def test_wrong_values_are_named(wrong: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(EnsembleError, match=message):
        read_points([written(tmp_path / "points.json", wrong)])


def test_what_is_no_result_file(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"files": []}')
    with pytest.raises(EnsembleError, match="is no result file: it needs 'dataset'"):
        read_points([tmp_path / "other.json"])
    with pytest.raises(EnsembleError, match=r"is a \.tflite file, .* `python benchmarks/alternat"):
        read_points([tmp_path / "ensemble.tflite"])
    with pytest.raises(EnsembleError, match="nothing to compare"):
        frontier([], tmp_path / "out", results=[written(tmp_path / "none.json")])
    with pytest.raises(EnsembleError, match=r"no\.json' has a cost: give 'bytes'"):
        frontier([], tmp_path / "out", results=[written(tmp_path / "no.json", point("a", 50))])
    with pytest.raises(EnsembleError, match="'split' must be 'test' or 'validation', got 3"):
        read_points([written(tmp_path / "split.json", split=3)])


def test_keys_of_a_file_are_no_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(SystemExit):
        main(["frontier", str(tmp_path / "other.json"), "--out", str(tmp_path / "out")])
    assert "needs 'dataset', a name" in capsys.readouterr().err


def test_options_of_an_evaluation_need_a_run(tmp_path: Path, capsys: Any) -> None:
    path = written(tmp_path / "points.json", point("a", 50, bytes=9))
    for option in ("--split validation", "--dataset digits", "--limit-test 5", "--data-dir d"):
        with pytest.raises(SystemExit):
            main(["frontier", str(path), *option.split(), "--out", str(tmp_path / "out")])
        assert f"{option.split()[0]} has no effect on POINTS.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_runs_on_other_data_are_not_compared_with_points(tmp_path: Path, monkeypatch: Any) -> None:
    run = open_trained(pretrained.names()[0])
    path = tmp_path / "points.json"
    written(path, point("a", 50, bytes=9), dataset=run.config.dataset["name"])
    evaluated = {"dataset": "npz:other.npz", "own_data": False}
    monkeypatch.setattr(comparing, "_evaluation", lambda *_: evaluated)
    with pytest.raises(EnsembleError, match=r"`dataset` 'npz:other\.npz' is not '.*', on which"):
        frontier([run], tmp_path / "out", dataset="npz:other.npz", results=[path])
