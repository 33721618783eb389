"""`benchmarks/precision.py`: which images it measures on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from larq_ensemble.data.datasets import DATASETS, DataOptions
from larq_ensemble.runs import RunConfig

from .conftest import load


def test_the_validation_split_is_what_the_training_held_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut by the backbone's seed, 0, not by the ensemble's."""
    precision = load("precision")
    digits, seen = DATASETS["digits"], []
    data = {"validation": 0.2, "split_seed": 0}
    run = SimpleNamespace(
        path="run",
        config=RunConfig("ensemble", {}, digits.constants(), {}, seed=1, data=data),
        dataset=lambda spec, data_dir: digits,
    )

    def predict(images: np.ndarray) -> np.ndarray:
        seen.append(images)
        return np.full((len(images), 10), 0.1)

    def convert_run(*_: Any, **__: Any) -> Any:
        return SimpleNamespace(tflite="", bytes=0)

    monkeypatch.setattr("larq_ensemble.runs.load_run", lambda path: run)
    monkeypatch.setattr("larq_ensemble.convert.conversion.convert_run", convert_run)
    monkeypatch.setattr(
        "larq_ensemble.runtime.EnsembleInterpreter", lambda file: SimpleNamespace(predict=predict)
    )
    ((_, gain), *_) = precision._evaluate("run", "validation", None, None)
    held_out = DataOptions(validation=0.2).load(digits, 0).validation
    assert np.array_equal(seen[0], held_out.images)
    assert len(gain) == len(held_out)
