"""Timing on a clock that only the timed work moves, and on a small file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.convert import benchmarking as module
from larq_ensemble.convert.benchmarking import BRANCHES, ONE_MEMBER, SEPARATE, benchmark
from larq_ensemble.convert.conversion import convert_run
from larq_ensemble.convert.inspection import inspect_file
from larq_ensemble.errors import EnsembleError
from larq_ensemble.progress import listening
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.backends import BACKENDS, KERNELS

from .conftest import Converted, digits_ensemble, saved_run

ROOT = Path(__file__).parents[2]


class Clock:
    """Stands in for `time.perf_counter`; a predictor of `work` takes seconds by what is given."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[tuple[str, int]] = []

    def work(self, name: str, seconds_of_one: list[float]):
        seconds = iter(seconds_of_one)

        def predict(members: int) -> None:
            self.calls.append((name, members))
            self.now += members * next(seconds)

        return predict


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is measured in new processes, which takes seconds: see test_memory.py."""
    monkeypatch.setattr(module, "resident_bytes", lambda path, backend, **_: len(backend))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock.now)
    return clock


def test_every_repetition_times_everything_once_after_a_run_that_does_not_count(clock) -> None:
    contenders = {"a": clock.work("a", [100, *[1e-3] * 6]), "b": clock.work("b", [9, *[3e-3] * 6])}
    told: list[int] = []
    with listening(lambda work: told.append(work.done)):
        times = module._milliseconds(contenders, [1, 4], 3)
    expected = {("a", 1): 1, ("b", 1): 3, ("a", 4): 4, ("b", 4): 12}
    assert times.keys() == expected.keys()
    for job, milliseconds in expected.items():
        np.testing.assert_allclose(times[job], [milliseconds] * 3, rtol=1e-6)
    assert clock.calls[:2] == [("a", 4), ("b", 4)]
    for repetition in range(3):
        calls = clock.calls[2 + 4 * repetition :][:4]
        assert set(calls) == expected.keys()
    assert told == [0, 1, 2, 3, 3]


@pytest.mark.parametrize(("seconds", "repetitions"), [(0.1, 100), (4.0, 10)])
def test_by_default_it_takes_ten_seconds_or_ten_repetitions(clock, seconds, repetitions) -> None:
    work = clock.work("a", [seconds] * 200)
    times = module._milliseconds({"a": work}, [1], None)
    assert len(times["a", 1]) == pytest.approx(repetitions, abs=1)


def test_ratios_are_of_the_same_repetition(monkeypatch, fusion: Converted) -> None:
    load = np.array([1.0, 5.0, 2.0, 1.0])  # what else the machine does
    times = {(module.THIS_FILE, m): m * load for m in (1, 2)}
    monkeypatch.setattr(module, "_milliseconds", lambda *arguments: times)
    report = benchmark(fusion.path, [2], backend="lce")
    assert report.relative == {2: 1.0}
    assert (report.comparisons[0].ratio.low, report.comparisons[0].ratio.high) == (1, 1)
    assert report.latency_ms == {2: 3.0}
    assert report.comparisons[0].latency_ms.high == 2 * np.percentile(load, 75)


def test_a_file_alone(fusion: Converted) -> None:
    report = benchmark(fusion.path, repetitions=2)
    assert report.latency_ms.keys() == report.relative.keys() == {1, 2, 3}
    assert min(report.latency_ms.values()) > 0
    assert report.relative_to == ONE_MEMBER
    assert report.relative[1] == 1
    assert (report.repetitions, report.threads) == (2, 1)
    # The back ends that are installed stand side by side.
    ((other, kernel),) = report.other_backends.items()
    assert {report.backend, other} == set(BACKENDS)
    assert kernel in KERNELS[other]
    assert [item.against for item in report.comparisons] == 3 * [ONE_MEMBER, f"{other} ({kernel})"]
    assert report.bytes == len(fusion.path.read_bytes())
    assert report.resident_bytes == {"lce": 3, "litert": 6}
    arenas = inspect_file(fusion.path).arena_bytes  # of the complete graph, too, which doesn't run
    assert report.arena_bytes == arenas["prefix"] + arenas["rest"]


@pytest.mark.parametrize(("members", "counts"), [(1, [1]), (4, [1, 2, 4]), (10, [1, 2, 4, 8, 10])])
def test_default_numbers_of_members(members, counts) -> None:
    assert module._default_counts(members) == counts


def test_the_others_give_the_same_predictions(tmp_path: Path) -> None:
    run = saved_run(tmp_path / "run", digits_ensemble())
    path = tmp_path / "ensemble.tflite"
    convert_run(run, path)
    ours = EnsembleInterpreter(path, backend="litert", kernel="builtin")
    image = np.random.default_rng(0).integers(0, 256, (1, *ours.input_shape), np.uint8)
    others = module._others(ours, path, run, 2, image, lambda line: None)
    assert others.keys() == {SEPARATE, BRANCHES}
    for members in (1, 2):
        ours.members = members
        for predict in others.values():
            np.testing.assert_allclose(predict(members), ours.predict(image), atol=1e-3)
    report = benchmark(path, run=run, repetitions=2, backend="litert")
    assert report.relative_to == SEPARATE
    assert [(item.members, item.against) for item in report.comparisons] == [
        (members, against) for members in (1, 2) for against in (SEPARATE, BRANCHES)
    ]


def test_errors(fusion: Converted, tmp_path: Path) -> None:
    with pytest.raises(EnsembleError, match="from 1 to 3"):
        benchmark(fusion.path, [1, 4])
    with pytest.raises(EnsembleError, match="was converted from another ensemble"):
        benchmark(fusion.path, run=saved_run(tmp_path / "run", digits_ensemble()))


def test_a_file_alone_needs_no_tensorflow(fusion: Converted) -> None:
    code = """
import sys
from larq_ensemble.convert import benchmarking
benchmarking.resident_bytes = lambda *_, **__: None
benchmarking.benchmark(sys.argv[1], repetitions=1)
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, fusion.path], cwd=ROOT, check=True)
