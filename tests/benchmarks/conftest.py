"""The scripts in benchmarks/, called as a user calls them, and their functions."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))  # scripts import each other

COUNTER = f"""#!{sys.executable}
import json, os, sys
size = os.path.getsize(sys.argv[1])
assert sys.argv[2] == "--kernel"
each = {{"default": 3, "indirect": 2}}[sys.argv[3]] - sys.argv.count("--xnnpack")
print(json.dumps({{"instructions": size * each}}))
"""

Script = Callable[..., subprocess.CompletedProcess[str]]


def load(name: str) -> ModuleType:
    """`benchmarks/NAME.py` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script() -> Script:
    """Runs `python benchmarks/NAME.py ARGUMENTS`."""

    def run(name: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, ROOT / "benchmarks" / f"{name}.py", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three members of a small network, as if trained."""
    from larq_ensemble.convert.conversion import convert_run
    from larq_ensemble.data.datasets import DATASETS
    from larq_ensemble.ensembles.building import build_ensemble
    from larq_ensemble.keras import keras
    from larq_ensemble.models.keras_layers import KerasLayers
    from larq_ensemble.network.architectures.resnet import resnet
    from larq_ensemble.runs import RunConfig, create_run

    image = keras.Input((8, 8, 1))
    logits = resnet(KerasLayers(), image, classes=10, dropout=0, stages=[8], blocks=[1])
    config = RunConfig(
        kind="ensemble",
        model={"name": "small"},
        dataset=DATASETS["digits"].constants(),
        recipe={},
        seed=0,
    )
    run = create_run(tmp_path_factory.mktemp("run") / "run", config)
    model = build_ensemble(keras.Model(image, logits), 3)
    # A network whose norms are all as initialized would be converted twice, each time.
    norms = (layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization))
    next(norms).moving_mean.assign_add([1.0] * 8)
    run.save_model(model)
    convert_run(run, run.path.parent / "ensemble.tflite")
    return run.path


@pytest.fixture(scope="session")
def tflite(run: Path) -> Path:
    """The file converted from `run`."""
    return run.parent / "ensemble.tflite"


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    """A program that says thrice or twice as many instructions as the file has bytes.

    With XNNPACK once less.
    """
    path = tmp_path / "counter"
    path.write_text(COUNTER)
    path.chmod(0o755)
    return path
