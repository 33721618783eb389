"""Latency and memory of an ensemble file on this machine, and latency against alternatives.

Other load on the machine comes and goes. So every repetition times each contender once, in random
order, and ratios compare times of the same repetition, under the same load. Trust the ratios, which
come with quartiles, more than the milliseconds.

```python
report = benchmark("ensemble.tflite", members=[1, 4])
report.latency_ms  # {1: 12.1, 4: 48.3}
```
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from larq_ensemble.convert.comparison import on_other_backends
from larq_ensemble.convert.memory import arenas_bytes, resident_bytes
from larq_ensemble.errors import check_whole
from larq_ensemble.progress import tracked
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.backends.choice import backend_named
from larq_ensemble.runtime.combination import combine
from larq_ensemble.trained import Trained

#: What gives the ensemble's prediction of one image by the first m members.
Predict = Callable[[int], Any]

THIS_FILE = "this file"
SEPARATE = "separate models"
BRANCHES = "branches layout"
ONE_MEMBER = "m times one member"

DEFAULT_SECONDS = 10.0
MIN_REPETITIONS = 10


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Spread:
        low, median, high = np.percentile(values, [25, 50, 75])
        return cls(float(median), float(low), float(high))


@dataclass(frozen=True)
class Comparison:
    """This file against an alternative that predicts with the same m members.

    # Arguments
        against: the alternative.
        members: m.
        ratio: time of this file over that of the alternative within a repetition; below 1, this
            file is faster.
        latency_ms, other_ms: time of this file, and of the alternative.
    """

    against: str
    members: int
    ratio: Spread
    latency_ms: Spread
    other_ms: Spread


@dataclass(frozen=True)
class BenchmarkReport:
    """Times of one image on this machine, in milliseconds.

    # Arguments
        latency_ms: median for the first m members, by m.
        relative: median of the ratio to `relative_to`, by m.
        relative_to: `"separate models"`, or `"m times one member"` where they weren't given.
        comparisons: every ratio with its spread.
        threads: of each interpreter.
        repetitions: how often everything was timed.
        backend, kernel: what ran this file.
        other_backends: the others that ran it: the kernel of each, by name.
        bytes: of the file.
        arena_bytes: of all graphs that run, an estimate (`larq_ensemble.convert.memory`).
        resident_bytes: by how much a process grows that opens the file and runs all members, by
            the back end; `None` where the system doesn't say
            (`larq_ensemble.convert.memory.resident_bytes`).
    """

    latency_ms: dict[int, float]
    relative: dict[int, float]
    relative_to: str
    comparisons: tuple[Comparison, ...]
    threads: int
    repetitions: int
    backend: str
    kernel: str
    other_backends: dict[str, str]
    bytes: int
    arena_bytes: int
    resident_bytes: dict[str, int | None]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def benchmark(
    tflite: str | os.PathLike[str],
    members: Sequence[int] | None = None,
    *,
    run: Trained | None = None,
    threads: int = 1,
    repetitions: int | None = None,
    backend: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> BenchmarkReport:
    """Times the prediction of one image, and measures the memory of a process that does it.

    Larq Compute Engine has optimized kernels for ARM only: on x86 the ratios hold among files that
    run the same operators, the times say nothing about a device.

    # Arguments
        tflite: the file.
        members: numbers of members; by default 1, the powers of two, and all.
        run: the run that the file was converted from, to compare with two alternatives: its
            members as M separate models, and the layout `branches`, which always computes all M
            members (needs TensorFlow).
        threads: of each interpreter.
        repetitions: how often to time everything, at least 1; by default what takes 10 seconds,
            and no fewer than 10.
        backend: what runs the file; `None`: the one that `EnsembleInterpreter` takes, and the
            others that are installed, to compare with it.
        progress: receives a line now and then.

    # Raises
        EnsembleError: if the file can't be run, a number of members is out of range, or the run
            is another one's.
    """
    ours = EnsembleInterpreter(tflite, threads=threads, backend=backend)
    elsewhere = {} if backend is not None else on_other_backends(ours, tflite, threads)
    counts = _default_counts(ours.max_members)
    if members is not None:
        most = ours.max_members
        counts = sorted({check_whole("members", count, 1, most) for count in members})
    image = np.random.default_rng(0).integers(0, 256, (1, *ours.input_shape), np.uint8)
    others = {} if run is None else _others(ours, tflite, run, max(counts), image, progress)
    backends = {
        f"{name} ({interpreter.kernel})": _by_interpreter(interpreter, image)
        for name, interpreter in elsewhere.items()
    }
    contenders = {THIS_FILE: _by_interpreter(ours, image), **others, **backends}
    times = _milliseconds(contenders, sorted({1, *counts}), repetitions)
    comparisons = []
    for count in counts:
        mine = times[THIS_FILE, count]
        baselines = {name: times[name, count] for name in others}
        baselines = baselines or {ONE_MEMBER: count * times[THIS_FILE, 1]}
        baselines |= {name: times[name, count] for name in backends}
        for name, other in baselines.items():
            spreads = map(Spread.of, (mine / other, mine, other))
            comparisons.append(Comparison(name, count, *spreads))
    relative_to = SEPARATE if others else ONE_MEMBER
    progress("measuring memory in new processes")
    memory = {
        interpreter.backend: resident_bytes(
            tflite,
            threads=interpreter.threads,
            backend=interpreter.backend,
            kernel=interpreter.kernel,
        )
        for interpreter in (ours, *elsewhere.values())
    }
    return BenchmarkReport(
        latency_ms={count: Spread.of(times[THIS_FILE, count]).median for count in counts},
        relative={
            item.members: item.ratio.median for item in comparisons if item.against == relative_to
        },
        relative_to=relative_to,
        comparisons=tuple(comparisons),
        threads=ours.threads,
        repetitions=len(times[THIS_FILE, 1]),
        backend=ours.backend,
        kernel=ours.kernel,
        other_backends={name: interpreter.kernel for name, interpreter in elsewhere.items()},
        bytes=os.path.getsize(tflite),
        arena_bytes=arenas_bytes(tflite),
        resident_bytes=memory,
    )


def _default_counts(members: int) -> list[int]:
    """1, 2, 4, ... and M."""
    return [*(1 << power for power in range((members - 1).bit_length())), members]


def _milliseconds(
    contenders: Mapping[str, Predict],
    counts: Sequence[int],
    repetitions: int | None,
) -> dict[tuple[str, int], np.ndarray]:
    """Times `[repetitions]` of each contender at each number of members."""
    for predict in contenders.values():
        predict(max(counts))  # the first run of an interpreter packs its filters
    jobs = [(name, count) for count in counts for name in contenders]
    draw = np.random.default_rng(0)

    def repetition() -> np.ndarray:
        times = np.empty(len(jobs))
        for job in draw.permutation(len(jobs)):
            name, count = jobs[job]
            start = time.perf_counter()
            contenders[name](count)
            times[job] = 1000 * (time.perf_counter() - start)
        return times

    if repetitions is None:
        fitting = int(1000 * DEFAULT_SECONDS / repetition().sum())
        repetitions = max(fitting, MIN_REPETITIONS)
    times = np.empty((repetitions, len(jobs)))
    for done in tracked(range(repetitions), "timing", unit="repetition"):
        times[done] = repetition()
    return dict(zip(jobs, times.T, strict=True))


def _by_interpreter(interpreter: EnsembleInterpreter, image: np.ndarray) -> Predict:
    def predict(members: int) -> np.ndarray:
        interpreter.members = members
        return interpreter.predict(image)

    return predict


def _others(
    ours: EnsembleInterpreter,
    tflite: str | os.PathLike[str],
    run: Trained,
    members: int,
    image: np.ndarray,
    progress: Callable[[str], None],
) -> dict[str, Predict]:
    """The alternatives to ship a run's members; converts up to `members` of them."""
    from larq_ensemble.convert.conversion import convert_run, trained_ensemble
    from larq_ensemble.convert.frontend.single import convert_single
    from larq_ensemble.convert.verification import check_same
    from larq_ensemble.ensembles import as_ensemble

    ensemble = as_ensemble(trained_ensemble(run))
    check_same(ensemble, ours, tflite, run.digest)
    separate = []
    for member in range(members):
        progress(f"converting member {member} by itself")
        model = convert_single(ensemble.member(member))
        separate.append(backend_named(ours.backend).open(model, ours.threads, ours.kernel))
    # That they don't normalize while timed counts in their favour.
    normalized = [run.normalization(image)]

    def by_separate_models(members: int) -> np.ndarray:
        logits = np.stack([run(normalized)[0] for run in separate[:members]])
        return combine(logits, ours.scheme, ours.weights)

    others: dict[str, Predict] = {SEPARATE: by_separate_models}
    if ours.metadata.layout != "branches":
        progress("converting all members to the layout branches")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "branches.tflite")
            convert_run(run, path, layout="branches")
            branches = EnsembleInterpreter(
                path, threads=ours.threads, backend=ours.backend, kernel=ours.kernel
            )
            others[BRANCHES] = _by_interpreter(branches, image)
    return others
