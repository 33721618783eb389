"""Accuracy, bytes and cost by members, on a small network and the digits."""

from __future__ import annotations

import json

import pytest

from larq_ensemble.data.datasets import DATASETS
from larq_ensemble.runtime import EnsembleInterpreter

from .conftest import ROOT, load


def test_what_members_bring_and_cost(counter, tflite, tmp_path, monkeypatch) -> None:
    out = tmp_path / "result.json"
    arguments = [tflite, "--out", tmp_path / "figure", "--samples", "30", "--counter", counter]
    # In this process, which saves to import TensorFlow once more.
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    main = load("choose").main
    main.main([*map(str, arguments), "--json", str(out)], standalone_mode=False)
    rows = json.loads(out.read_text())["choices"]
    assert [row["members"] for row in rows] == [1, 2, 3]
    size = tflite.stat().st_size
    assert rows[0]["bytes"] < rows[1]["bytes"] < rows[2]["bytes"] == size
    assert [row["instructions"] for row in rows] == [2 * size * (1 + m) for m in (1, 2, 3)]
    test = DATASETS["digits"].read(None)[1].first(30)
    for row in rows:
        ensemble = EnsembleInterpreter(tflite, members=row["members"])
        right = ensemble.predict(test.images).argmax(axis=1) == test.labels
        assert row["top1"] == pytest.approx(100 * right.mean())
    assert (tmp_path / "figure.png").stat().st_size > 10_000
