"""The example app on files that look like those of Linux's power supplies, and on a folder."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.budget import POWER_MODES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def app() -> ModuleType:
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import battery_app
    finally:
        sys.path.pop(0)
    return battery_app


def supply(folder: Path, name: str, **values: object) -> None:
    (folder / name).mkdir()
    for file, value in values.items():
        (folder / name / file).write_text(f"{value}\n")


@pytest.mark.parametrize(
    ("level", "mode"),
    [
        *[(None, "performance"), (100, "performance"), (60, "performance")],
        *[(59.5, "balanced"), (25, "balanced"), (24, "power-saver"), (0, "power-saver")],
    ],
)
def test_power_mode(app, level, mode) -> None:
    assert app.power_mode(level) == mode
    assert mode in POWER_MODES


def test_a_camera_without_opencv_says_what_to_install(app, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(EnsembleError, match="pip install opencv-python-headless"):
        next(app.camera_images(0, (8, 8, 3)))


def test_battery_level(app, tmp_path) -> None:
    assert app.battery_level(tmp_path / "none") is None
    supply(tmp_path, "AC", type="Mains", online=0)
    assert app.battery_level(tmp_path) is None
    supply(tmp_path, "BAT0", type="Battery", status="Discharging", capacity=71)
    supply(tmp_path, "BAT1", type="Battery", status="Discharging", capacity=64)
    supply(tmp_path, "mouse", type="Battery", scope="Device", status="Discharging", capacity=3)
    supply(tmp_path, "broken", type="Battery", status="Unknown")
    assert app.battery_level(tmp_path) == 64
    (tmp_path / "BAT0" / "status").write_text("Charging\n")
    assert app.battery_level(tmp_path) is None


@pytest.mark.parametrize(
    ("online", "states", "expected"),
    [
        (1, ["Not charging"], None),  # at a limit of charging
        (1, ["Full"], None),
        (1, ["Unknown"], None),  # so older kernels call it
        (1, ["Discharging"], 20),  # the charger is too weak
        (0, ["Full", "Discharging"], 20),  # one after the other
        (0, ["Unknown"], 20),
        (None, ["Not charging"], None),  # powered by USB
    ],
)
def test_batteries_on_mains_that_do_not_charge(app, tmp_path, online, states, expected) -> None:
    if online is not None:
        supply(tmp_path, "AC", type="Mains", online=online)
    for number, state in enumerate(states):
        supply(tmp_path, f"BAT{number}", type="Battery", status=state, capacity=20 + number)
    assert app.battery_level(tmp_path) == expected


def test_a_level_is_a_percentage(app) -> None:
    assert app.percent("15") == 15
    for text in ("nan", "-1", "120"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not from 0 to 100"):
            app.percent(text)


@pytest.fixture
def tflite() -> Path:
    """Three members, five classes from ant to eel, images of 8x8 pixels."""
    return ROOT / "tests" / "data" / "indexed.tflite"


def called(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "examples" / "battery_app.py", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_folder(tflite, tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    done = called(tflite, tmp_path, "--battery", "50")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert re.match(r"a\.png: (ant|bee|cat|dog|eel) \(", first)
    assert "2 of 3 members, battery 50 %" in first
    assert second.startswith("b.jpg: ")
    assert "notes.txt" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["{}"], 2, "give a folder or --camera"),
        (["{}", "missing"], 1, "'missing' is no folder"),
        (["missing.tflite", "."], 1, "missing.tflite"),
    ],
)
def test_errors(tflite, arguments, status, message) -> None:
    done = called(*(argument.format(tflite) for argument in arguments))
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr.splitlines()[-1]


def test_a_reader_that_leaves_and_a_name_that_a_terminal_would_obey(tflite, tmp_path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a\x1b[2J.png")
    assert called(tflite, tmp_path).stdout.startswith(r"a\x1b[2J.png: ")
    command = f"{sys.executable} {ROOT / 'examples' / 'battery_app.py'} {tflite} {tmp_path} | true"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, shell=True, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
