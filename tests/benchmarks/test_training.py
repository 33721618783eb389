"""Throughput and cost of training, on a narrow network for a step or two."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from typing import Any

import pytest

from larq_ensemble.data.augmentation import Augmentation
from larq_ensemble.network.architectures import MODELS, Architecture
from larq_ensemble.network.architectures.resnet import residual_block

from .conftest import ROOT, load

# `fusion_steps.py`, with a smaller network of that name.
ONE_BLOCK = """
import runpy
from larq_ensemble.network.architectures import MODELS, Architecture
from larq_ensemble.network.architectures.resnet import residual_block
MODELS._entries["resnet20"] = Architecture(residual_block, (4, 8), (0, 1))
runpy.run_path({script!r}, run_name="__main__")
"""

SMALL = ["--batch", 4, "--steps", 1, "--width", 0.25, "--rounds", 1]


def torch_python() -> str | None:
    """A Python with torch and torchensemble: this one, or the one that TORCH_PYTHON names."""
    for python in (sys.executable, os.environ.get("TORCH_PYTHON")):
        if python and shutil.which(python):
            done = subprocess.run([python, "-c", "import torchensemble"], capture_output=True)
            if done.returncode == 0:
                return python
    return None


@pytest.fixture
def measured(monkeypatch) -> list[Any]:
    """What was measured, by processes that are made up: M member-images per second more than 10."""
    steps = load("fusion_steps")
    trainings = []

    def measure(training: Any, *arguments: Any, **options: Any) -> Any:
        trainings.append(training)
        seconds = training.members * training.batch / (10 + training.members)
        return steps.Measurement(training, 1, 2, (seconds,), 5_000_000)

    monkeypatch.setattr(steps, "measure", measure)
    return trainings


def call(name: str, *arguments: object) -> None:
    """Calls a script in this process, which saves to import TensorFlow once more."""
    load(name).main.main(list(map(str, arguments)), standalone_mode=False)


@pytest.fixture
def one_block(tmp_path, monkeypatch) -> None:
    """ResNet-20 has one block in the processes that measure."""
    steps = load("fusion_steps")
    path = tmp_path / "one_block.py"
    path.write_text(ONE_BLOCK.format(script=str(steps.STEPS)))
    monkeypatch.setattr(steps, "measure", partial(steps.measure, script=path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_ours_alone_needs_no_torch(one_block, tmp_path) -> None:
    out = tmp_path / "result.json"
    call(
        "train_throughput", *SMALL, "--members", "2", "--only", "ours", "--kinds",
        "ours,peer", "--peer-python", "/nowhere", "--json", out,
    )  # fmt: skip
    rows = json.loads(out.read_text())["rows"]
    assert [(row["kind"], row["members"]) for row in rows] == [("ours", 2)]
    for row in rows:
        assert row["member_images_per_second"] > 0
        assert 0 < row["build"] < row["first_step"]
        assert 1e8 < row["peak"] < 1e10
        assert row["ratio"] is None


def test_kinds_take_turns(measured, tmp_path) -> None:
    out = tmp_path / "result.json"
    kinds = ["--kinds", "ours,ours_bfloat16", "--members", "1,4", "--rounds", 2]
    call("train_throughput", *kinds, "--json", out)
    order = [(training.members, training.bfloat16) for training in measured]
    assert order == [(m, bfloat16) for m in (1, 4) for bfloat16 in (False, True, True, False)]
    rows = json.loads(out.read_text())["rows"]
    assert [row["member_images_per_second"] for row in rows] == pytest.approx([11, 11, 14, 14])


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


def test_cost_by_members(measured, tmp_path) -> None:
    out = tmp_path / "result.json"
    options = ["--members", "1,3", "--rounds", 1, "--recompute", "--plot", tmp_path / "cost"]
    call("train_cost", *options, "--json", out)
    assert [(training.members, training.recompute) for training in measured] == [
        (1, True),
        (3, True),
    ]
    first, last = json.loads(out.read_text())["rows"]
    assert (first["members"], last["members"]) == (1, 3)
    assert first["relative"] == 1
    assert last["relative"] == pytest.approx(13 / 11)
    assert (tmp_path / "cost.png").stat().st_size > 10_000
    assert (tmp_path / "cost.svg").exists()


def test_against_the_peer(script, tmp_path) -> None:
    python = torch_python()
    if python is None:
        pytest.skip("set TORCH_PYTHON to a Python with torch and torchensemble (docs: performance)")
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


def test_profile_by_part(tmp_path, monkeypatch) -> None:
    profile = load("train_profile")
    monkeypatch.setattr(profile, "matmul_rate", partial(profile.matmul_rate, 256))
    monkeypatch.setattr(profile, "memory_rate", partial(profile.memory_rate, 2**16))
    one_block = Architecture(residual_block, (8, 16), (0, 1))
    monkeypatch.setitem(MODELS._entries, "resnet20", one_block)
    out = tmp_path / "result.json"
    options = ["--batch", "4", "--steps", "1", "--json", str(out)]
    profile.main.main(options, standalone_mode=False)
    result = json.loads(out.read_text())
    spent = {part["part"]: part["milliseconds"] for part in result["parts"]}
    for part in ("convolutions, forward", "convolutions, backward", "batch norm", "sign and PReLU"):
        assert spent[part] > 0
    assert result["bounds"]["GFLOP/s"] > 1


@pytest.mark.parametrize(("images", "kind"), [("cache", "Rows"), ("files", "ImageFiles")])
def test_waiting_for_photos(images, kind, monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    script = load("input_pipeline")
    # No network: a step is as long as its batch takes.
    monkeypatch.setattr(script, "_training_step", lambda model_name, dataset: next)
    streamed = []
    training_batches = script.training_batches

    def stream(data, dataset, **options):
        streamed.append((type(data.images).__name__, data.images.shape, dataset.augmentation))
        return training_batches(data, dataset, **options)

    monkeypatch.setattr(script, "training_batches", stream)
    options = ["--images", images, "--photos", "20", "--image-size", "8", "--augment", "flip"]
    options += ["--batch-size", "4", "--steps", "2", "--repetitions", "2"]
    share = script.main.main(options, standalone_mode=False)
    assert f"waiting for data: {100 * share:.1f} %" in capsys.readouterr().out
    ((name, shape, augmentation),) = streamed
    assert (name, shape[1:]) == (kind, (8, 8, 3))
    assert augmentation == Augmentation(flip=True)
