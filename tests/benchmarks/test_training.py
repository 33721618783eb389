"""Throughput and cost of training, on a narrow network for a step or two."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from .conftest import load

SMALL = ["--batch", 4, "--steps", 1, "--width", 0.25, "--rounds", 1]


def torch_python() -> str | None:
    """A Python with torch and torchensemble: this one, or the one that TORCH_PYTHON names."""
    for python in (sys.executable, os.environ.get("TORCH_PYTHON")):
        if python and shutil.which(python):
            done = subprocess.run([python, "-c", "import torchensemble"], capture_output=True)
            if done.returncode == 0:
                return python
    return None


@pytest.mark.parametrize("kind", ["ours", "ours_bfloat16"])
def test_ours_alone_needs_no_torch(kind, script, tmp_path, request) -> None:
    if kind == "ours_bfloat16":
        request.getfixturevalue("bfloat16")
    out = tmp_path / "result.json"
    done = script(
        "train_throughput", *SMALL, "--members", "2", "--only", "ours", "--kinds",
        f"{kind},peer", "--peer-python", "/nowhere", "--json", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [(row["kind"], row["members"]) for row in rows] == [(kind, 2)]
    for row in rows:
        assert row["member_images_per_second"] > 0
        assert 0 < row["build"] < row["first_step"]
        assert 1e8 < row["peak"] < 1e10
        assert row["ratio"] is None


def test_says_what_to_install(script) -> None:
    done = script("train_throughput", "--peer-python", "/nowhere/python")
    assert done.returncode == 1
    assert "pip install torchensemble" in done.stderr
    assert "--only ours" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("members", ["0", "1,x", ""])
def test_members_are_whole_numbers(script, members) -> None:
    done = script("train_cost", "--members", members)
    assert done.returncode == 2
    assert "whole numbers from 1 on" in done.stderr


def test_steps_are_timed_after_the_lead_in(monkeypatch) -> None:
    fusion_steps = load("fusion_steps")
    ends = [10.0, 13.0, 15.0, 16.0, 18.0]
    said = {"start": 1.0, "built": 3.0, "ends": ends, "peak": 5}
    monkeypatch.setattr(fusion_steps, "last_line", lambda command: said)
    measured = fusion_steps.measure(fusion_steps.Training(2, batch=8, steps=3))
    assert (measured.build, measured.first_step, measured.peak) == (2, 9, 5)
    assert measured.steps == (2, 1, 2)
    assert measured.member_images == 2 * 8 / 2


def test_cost_by_members(script, tmp_path) -> None:
    out = tmp_path / "result.json"
    done = script(
        "train_cost", *SMALL, "--members", "1,3", "--recompute", "--plot", tmp_path / "cost",
        "--json", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, last = json.loads(out.read_text())["rows"]
    assert (first["members"], last["members"]) == (1, 3)
    assert first["relative"] == 1
    assert last["relative"] == pytest.approx(
        last["member_images_per_second"] / first["member_images_per_second"]
    )
    assert (tmp_path / "cost.png").stat().st_size > 10_000
    assert (tmp_path / "cost.svg").exists()


def test_against_the_peer(script, tmp_path) -> None:
    python = torch_python()
    if python is None:
        pytest.skip("torch and torchensemble are neither here nor in TORCH_PYTHON")
    out = tmp_path / "result.json"
    done = script(
        "train_throughput", *SMALL, "--members", "2", "--kinds",
        "ours,peer,peer_plain,peer_bfloat16", "--peer-python", python, "--json", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert max(result["equivalence"]["logits"], result["equivalence"]["gradients"]) < 1e-9
    ours, peer = result["rows"][:2]
    assert peer["ratio"] == 1
    assert ours["ratio"] == pytest.approx(
        ours["member_images_per_second"] / peer["member_images_per_second"]
    )


def test_profile_by_part(script, tmp_path) -> None:
    out = tmp_path / "result.json"
    done = script("train_profile", "--batch", 4, "--steps", 1, "--width", 0.25, "--json", out)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    spent = {part["part"]: part["milliseconds"] for part in result["parts"]}
    for part in ("convolutions, forward", "convolutions, backward", "batch norm", "sign and PReLU"):
        assert spent[part] > 0
    assert result["bounds"]["GFLOP/s"] > 1
