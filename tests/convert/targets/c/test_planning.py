"""Plans, run by NumPy, give the logits of the files they were made of."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.convert.targets.c import arena, members
from larq_ensemble.convert.targets.c.plan import Plan, Vector
from larq_ensemble.convert.targets.c.planning import plan_ensemble
from larq_ensemble.convert.targets.c.scratch import scratch_bytes
from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.ir.graph import Module
from larq_ensemble.pretrained.catalog import tflite_path
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.file import EnsembleFile, read_ensemble

from .execution import Execution

DATA = Path(__file__).parents[3] / "data"
#: The paper's: ten members, and a trunk that they share.
PAPER = "cifar100-resnet20-fusion10"


def logits_of(plan: Plan, images: np.ndarray) -> np.ndarray:
    """float32 `[members, images, classes]`, with the members in an order of their own."""
    execution = Execution(plan, scratch_bytes)
    logits = np.zeros((plan.members, len(images), plan.classes), np.float32)
    for number, image in enumerate(images):
        execution.begin(image)
        for member in [*range(plan.members)[::-1], 0]:
            logits[member, number] = execution.member(member)
    return logits


def flash_of(plan: Plan) -> int:
    return sum(value.bytes for value in {v for step in plan.steps for v in step.values})


@pytest.fixture(scope="module")
def paper() -> EnsembleFile:
    return read_ensemble(tflite_path(PAPER))


@pytest.mark.parametrize("name", ["indexed", "subgraphs", "compact"])
def test_a_plan_computes_what_the_file_computed(name: str) -> None:
    stored = np.load(DATA / f"{name}.npz")
    plan = plan_ensemble(read_ensemble(DATA / f"{name}.tflite"))
    logits = logits_of(plan, stored["images"][:3])
    np.testing.assert_allclose(logits, stored["logits"][:, :3], rtol=1e-4, atol=1e-4)
    assert not np.allclose(logits[0], logits[1], atol=0.01)


def test_a_trained_network(paper: EnsembleFile) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    expected = EnsembleInterpreter(PAPER).predict_logits(images)
    plan = plan_ensemble(paper)
    np.testing.assert_allclose(logits_of(plan, images), expected, rtol=1e-4, atol=1e-4)
    # Filters are stored once, a head has a byte a weight. The mean has one bias of all heads.
    purposes = {v.purpose: 0 for step in plan.steps for v in step.values}
    for value in {v for step in plan.steps for v in step.values}:
        purposes[value.purpose] += value.bytes
    assert purposes["binary filters"] == 33_408  # 3 x 3: 6 of 16 to 16, 16 to 32, 5, 32 to 64, 5
    assert purposes["head"] == 10 * (64 * 100 + 4 * 100) + 4 * 100
    # The trunk's map for all members, a member's map, two maps of signs, and little else.
    maps = 2 * (32 * 32 * 16 * 4 + 32 * 32 * 16 // 8)
    assert maps <= plan.arena_bytes <= maps + max(map(scratch_bytes, plan.steps)) + arena.ALIGNMENT


def test_half_floats_take_half_the_memory(paper: EnsembleFile) -> None:
    single, half = (plan_ensemble(paper, activations=name) for name in ("float32", "float16"))
    assert single.arena_bytes - half.arena_bytes == 32 * 32 * 16 * 4  # of two maps
    images = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), np.uint8)
    expected, logits = logits_of(single, images), logits_of(half, images)
    # A sign that flips changes much, but the predictions stay alike.
    assert np.corrcoef(expected.ravel(), logits.ravel())[0, 1] > 0.95
    assert not np.array_equal(expected, logits)


def test_compact_values_stay_small() -> None:
    file = read_ensemble(DATA / "compact.tflite")
    plan = plan_ensemble(file)
    assert any(isinstance(step, Vector) for step in plan.steps)
    assert flash_of(plan) < len(file.data) - len(file.metadata.to_json())


def test_one_member_is_computed_at_once() -> None:
    name = "cifar100-resnet20"
    plan = plan_ensemble(read_ensemble(tflite_path(name)))
    assert all(step.shared for step in plan.steps)
    assert plan.logits.shared
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    expected = EnsembleInterpreter(name).predict_logits(images)
    np.testing.assert_allclose(logits_of(plan, images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("branches", "`layout` 'branches'.*no member can run alone"),
        ("stock", "for 'litert'.*converted with `target` 'lce'"),
    ],
)
def test_other_files_are_refused(name: str, message: str) -> None:
    with pytest.raises(EnsembleError, match=message):
        plan_ensemble(read_ensemble(DATA / f"{name}.tflite"))


def test_a_quantized_network_is_refused() -> None:
    file = read_ensemble(DATA / "stock.tflite")
    metadata = dataclasses.replace(file.metadata, quantization="int8", filters=None)
    with pytest.raises(EnsembleError, match="quantized to int8: TFLite Micro runs those"):
        plan_ensemble(dataclasses.replace(file, metadata=metadata))


def test_members_of_different_operators_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_one_changed(data: bytes) -> Module:
        module = read(data)
        graph = module.graphs[1]
        graph.erase(graph.operators[-1])
        return module

    monkeypatch.setattr(members, "read", read_one_changed)
    with pytest.raises(EnsembleError, match=r"different operators.*`layout` 'indexed'"):
        plan_ensemble(read_ensemble(DATA / "subgraphs.tflite"))


def test_a_second_output_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_two(data: bytes) -> Module:
        module = read(data)
        for graph in module.graphs:
            graph.outputs *= 2
        return module

    monkeypatch.setattr(members, "read", with_two)
    with pytest.raises(EnsembleError, match="its graph has 2 outputs"):
        plan_ensemble(read_ensemble(DATA / "indexed.tflite"))


def test_unknown_activations(paper: EnsembleFile) -> None:
    with pytest.raises(EnsembleError, match="Unknown activations 'int16'"):
        plan_ensemble(paper, activations="int16")
