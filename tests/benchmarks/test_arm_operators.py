"""The shares of operators, with a counter that counts bytes."""

from __future__ import annotations

import json

import numpy as np

from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.runtime.backends.lce import load_model
from larq_ensemble.runtime.file import read_ensemble, with_one_subgraph

from .conftest import load


def test_shares_add_up(script, counter, tflite, tmp_path) -> None:
    out = tmp_path / "result.json"
    done = script("arm_operators", "--counter", counter, tflite, "--json", out)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert sum(result["operators"].values()) == result["instructions"]
    used = {op.name for op in read(tflite.read_bytes()).graphs[0].operators}
    assert set(result["operators"]) == used - {"BITCAST"}
    assert "LceBconv2d" in result["operators"]


def test_a_cut_computes_what_the_graph_does(tflite) -> None:
    """Behind the last operator it is the graph; before, each cut runs."""
    load("arm_cost")  # which it imports
    cut_behind = load("arm_operators").cut_behind
    ensemble = read_ensemble(tflite)
    graph = with_one_subgraph(ensemble.data, ensemble.graphs[0].index)
    whole = read(graph).graph
    operators = [op.name for op in whole.operators]
    inputs = [
        np.ones(tensor.shape, np.float32) if len(tensor.shape) > 1 else np.zeros(1, np.int32)
        for tensor in whole.inputs
    ]
    expected = load_model(graph, 1, "default").predict(inputs)
    for place in range(0, len(operators), 7):
        if operators[place] not in ("BITCAST", "SPLIT_V"):
            cut = cut_behind(graph, place)
            assert load_model(cut, 1, "default").predict(inputs)
    last = cut_behind(graph, len(operators) - 1)
    np.testing.assert_array_equal(load_model(last, 1, "default").predict(inputs)[0], expected[0])
