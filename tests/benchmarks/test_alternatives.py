"""The plan of the alternatives: what is trained, how wide, how long. Nothing is trained here."""

from __future__ import annotations

import functools
import json
from types import ModuleType

import pytest
from click.testing import CliRunner

from .conftest import ROOT, load


@pytest.fixture(scope="module")
def alternatives() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        return load("alternatives")


@pytest.fixture(scope="module")
def cifar100(alternatives: ModuleType):
    return alternatives.Data(100, (32, 32, 3))


def test_what_others_need_comes_first(alternatives, cifar100) -> None:
    steps = alternatives.plan(
        ["deploynet9", "birealnet18"], ["real", "relu"], [60, 300], cifar100,
        members=10, epochs=60, retrain_epochs=10,
    )  # fmt: skip
    names = [step.name for step in steps]
    assert len({*names}) == len(names)
    for place, step in enumerate(steps):
        assert step.after is None or step.after in names[:place]
    # Bi-Real-Net has no rival with ReLU.
    assert names[5:9] == [
        *("deploynet9_real-60kB", "deploynet9_real-300kB"),
        *("deploynet9_relu-60kB", "deploynet9_relu-300kB"),
    ]
    assert names[-2:] == ["birealnet18_real-60kB", "birealnet18_real-300kB"]
    passes = {step.name.split("-")[1].rstrip("0123456789."): step.epochs for step in steps[:5]}
    assert passes == {"backbone": 60, "shared": 10, "separate": 10, "benn": 70, "wider": 70}


def test_widths_are_those_of_the_bytes(alternatives, cifar100) -> None:
    # Files that `convert --quantize int8` wrote of untrained networks, 2026-11-26.
    for model, width, measured in (
        ("resnet20_real", 1.0, 300_016),
        ("resnet20_relu", 1.0, 294_192),
    ):
        estimate = alternatives.int8_bytes(cifar100.graph(model, width))
        assert estimate == pytest.approx(measured, rel=0.04)
        bytes_of = functools.partial(alternatives._int8_bytes, cifar100, model)
        found = alternatives.width_for(measured, bytes_of, step=1 / 16)
        assert found == pytest.approx(width, abs=1 / 16)
    assert alternatives.width_for(10, lambda width: 4 * width, step=0.5) == 2.5
    assert alternatives.width_for(10.9, lambda width: 4 * width, step=0.5) == 2.5
    assert alternatives.width_for(1, lambda width: 4 * width, step=0.5) == 0.5
    # Ten members of DeployNet-9 against one network: it has 7 · 9 · 64² binary weights at width 1.
    wider = alternatives.plan(
        ["deploynet9"], [], [], cifar100, members=10, epochs=1, retrain_epochs=1
    )[-1]
    assert 7 * 9 * 64**2 * (wider.width**2 - 1) / 8 < 9 * (6400 + 3500)


def test_hours(alternatives, cifar100) -> None:
    """ResNet-20 at 470 images a second, as measured."""
    step = alternatives.Step("backbone", "resnet20", 1.0, epochs=60)
    found = alternatives.hours(step, 45_000, cifar100, alternatives.MACS_PER_SECOND)
    assert found == pytest.approx(45_000 * 60 / 470 / 3600, rel=0.1)


def test_the_command(alternatives, tmp_path) -> None:
    out = tmp_path / "plan.json"
    options = ["--dataset", "digits", "--model", "resnet20", "--json", str(out), "--members", "3"]
    CliRunner().invoke(alternatives.main, ["plan", *options, "--only", "resnet20-shared3"])
    (step,) = json.loads(out.read_text())["steps"]
    assert (step["members"], step["after"]) == (3, "resnet20-backbone")
    with pytest.raises(ValueError, match="Unknown only 'resnet'"):
        CliRunner().invoke(
            alternatives.main, ["plan", *options, "--only", "resnet"], catch_exceptions=False
        )


def test_the_best_within_a_budget(alternatives, tmp_path) -> None:
    path = tmp_path / "points.json"
    points = [
        {
            "name": "ours",
            "kind": "shared",
            "samples": 100,
            "members": m,
            "top1": 48 + 2 * m,
            "bytes": 50_000 + 9000 * m,
            "instructions": {"cortex-a72": 2e6 * m, "cortex-m4": 10e6 * m},
        }
        for m in (1, 2, 4)
    ]
    int8 = {"name": "int8", "kind": "int8", "top1": 53, "bytes": 90_000}
    points.append({**int8, "instructions": {"cortex-a72": 9e6, "cortex-m55": 60e6}})
    path.write_text(json.dumps({"dataset": "cifar100", "split": "test", "points": points}))
    text = alternatives.budgets([path])
    rows = [
        line.strip("| ").split(" | ")
        for line in text.splitlines()
        if "kB" in line or "mill" in line
    ]
    assert rows == [
        ["110 kB", "56.0, ours, m = 4, 86 kB", "53.0, int8, 90 kB", "+3.0"],
        ["200 kB", "56.0, ours, m = 4, 86 kB", "53.0, int8, 90 kB", "+3.0"],
        ["300 kB", "56.0, ours, m = 4, 86 kB", "53.0, int8, 90 kB", "+3.0"],
        ["5 million instructions, Cortex-A72", "52.0, ours, m = 2, 68 kB", "-", "-"],
        [
            "10 million instructions, Cortex-A72",
            "56.0, ours, m = 4, 86 kB",
            "53.0, int8, 90 kB",
            "+3.0",
        ],
        [
            "20 million instructions, Cortex-A72",
            "56.0, ours, m = 4, 86 kB",
            "53.0, int8, 90 kB",
            "+3.0",
        ],
        ["30 million instructions, Cortex-M4", "52.0, ours, m = 2, 68 kB", "-", "-"],
        ["50 million instructions, Cortex-M4", "56.0, ours, m = 4, 86 kB", "-", "-"],
        ["100 million instructions, Cortex-M4", "56.0, ours, m = 4, 86 kB", "-", "-"],
        ["100 million instructions, Cortex-M55", "-", "53.0, int8, 90 kB", "-"],
    ]
    # Two members that are the single network on both images are none.
    for point in points:
        point["kept"] = 2
    path.write_text(json.dumps({"dataset": "cifar100", "split": "test", "points": points}))
    text = alternatives.budgets([path])
    assert "m = 2" not in text
    assert "| 110 kB | 56.0, ours, m = 4, 86 kB | 53.0, int8, 90 kB | +3.0 |" in text
    # One of two networks that share nothing is not the two, and halves are rounded up.
    two = {"name": "two", "kind": "separate", "trained_members": 2, "bytes": 55_000, "top1": 62.65}
    both = [{**two, "members": 1, "top1": 70}, {**two, "members": 2}]
    path.write_text(json.dumps({"dataset": "cifar100", "points": both}))
    assert "| 60 kB | - | 62.7, two, m = 2, 55 kB | - |" in alternatives.budgets([path])
    path.write_text(json.dumps({"dataset": "cifar100", "split": "test", "points": points}))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{alternatives.BEGIN}\nold\n{alternatives.END}\nafter\n")
    CliRunner().invoke(alternatives.main, ["page", str(path), "--write", str(page)])
    written = page.read_text()
    assert text in written
    assert "old" not in written
    assert written.startswith("before\n")
    assert written.endswith("\nafter\n")
