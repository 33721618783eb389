"""Points of the frontier: the accuracy of a network and what it costs. No TensorFlow.

Runs give points (`larq_ensemble.training.frontier`), and so do result files, for what was measured
on converted files or elsewhere. A result file is a JSON object:

```json
{
  "dataset": "cifar100",
  "split": "test",
  "points": [
    {
      "name": "ResNet-20, int8",
      "kind": "int8",
      "members": 1,
      "top1": 55.2,
      "samples": 10000,
      "seed": 0,
      "bytes": 110096,
      "ram_bytes": 49152,
      "macs": 10500000,
      "instructions": {"cortex-a72": 11400000, "cortex-a76": 9300000}
    }
  ]
}
```

`name`, `kind` and `top1` (in percent) are needed, everything else may be left out, and other keys
are ignored. Points of one name are one curve, of ensembles one for each `trained_members` (M),
`scheme` and `sharing`. Points of several seeds with the same curve, `model` (any text, such as a
width) and number of members are averaged.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from larq_ensemble.errors import EnsembleError, is_number
from larq_ensemble.files import read_json, write_text
from larq_ensemble.runtime.file import is_tflite
from larq_ensemble.runtime.metrics import wilson_interval

#: What networks are, in the order of legends: an ensemble that shares its filters, a binarized
#: network, a wider one, several that share nothing, the same from scratch, a real-valued network in
#: integers of 8 or 4 bits, or in floats.
KINDS = ("shared", "single", "wider", "separate", "benn", "int8", "int4", "float")
#: Of runs, whose cost is counted from their layers.
COSTS = ("bytes", "macs", "paper_energy_mj")
#: Of converted files. Instructions follow, by core.
_MEASURED = ("bytes", "ram_bytes")
_INSTRUCTIONS = "instructions."


#: What points of one curve have in common.
Curve = tuple[str | int | None, ...]


@dataclass(frozen=True)
class FrontierPoint:
    """Accuracy and cost of the first m members of a network; what is unknown is `None`.

    # Arguments
        run: the directory, or the result file.
        trained_members: M of the run; `None`: a result file doesn't say it.
        members: m.
        top1: in percent, on the `samples` images of `split`.
        bytes: storage of m members, all that a device keeps; of a result file, that of the file.
        macs, binary_macs, real_macs: m times the multiply-accumulates of one member.
        paper_energy_mj: m times 1.92 mJ, the paper's model (XNOR-Net on ImageNet).
        best_by: the costs, separated by spaces, on whose Pareto front the point is: no other point
            is as good and cheaper, or as cheap and better.
        name: of its curve, with M, scheme and sharing if curves of a result file share their name;
            empty for a run.
        kind: one of `KINDS`; empty for a run.
        seeds: number of trainings that `top1` is the mean of.
        top1_low, top1_high: of several seeds the mean less and plus the standard deviation; of one
            Wilson's interval of 95 % for the images.
        ram_bytes: memory of the tensors while it runs.
        instructions: per image, by core.
        kept: so many of the first members are the pretrained network itself, on the image or on the
            mirrored one.
    """

    run: str
    model: str
    dataset: str
    scheme: str
    sharing: str
    trained_members: int | None
    members: int
    top1: float
    split: str
    samples: int | None
    bytes: int | None
    macs: int | None
    binary_macs: int | None
    real_macs: int | None
    paper_energy_mj: float | None
    best_by: str = ""
    name: str = ""
    kind: str = ""
    seeds: int = 1
    top1_low: float | None = None
    top1_high: float | None = None
    ram_bytes: int | None = None
    instructions: Mapping[str, float] = field(default_factory=dict)
    kept: int = 0

    @property
    def label(self) -> str:
        """The curve in a legend."""
        if self.name:
            return self.name
        if not self.scheme:
            return "single network"
        policy = "" if self.sharing in ("", "fusion") else f", sharing {self.sharing}"
        return f"{self.scheme}{policy}, M = {self.trained_members}"

    @property
    def curve(self) -> Curve:
        """What points of one curve have in common."""
        if not self.name:
            return (self.run,)
        return self.name, self.kind, self.trained_members, self.scheme, self.sharing

    def cost(self, name: str) -> float | None:
        """One of `costs_of`."""
        if name.startswith(_INSTRUCTIONS):
            return self.instructions.get(name.removeprefix(_INSTRUCTIONS))
        return getattr(self, name)


def costs_of(points: Sequence[FrontierPoint]) -> list[str]:
    """The costs to compare: what was measured on files, if it was, else what runs have."""
    cores = dict.fromkeys(core for point in points for core in sorted(point.instructions))
    if not cores and all(point.cost(name) is not None for point in points for name in COSTS):
        return [*COSTS]
    known = [name for name in _MEASURED if any(point.cost(name) is not None for point in points)]
    # Application processors first, then microcontrollers, which may run a millionth of them.
    ordered = sorted(cores, key=lambda core: (not core.startswith("cortex-a"), core))
    return [*known, *(f"{_INSTRUCTIONS}{core}" for core in ordered)]


def with_fronts(points: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    """The points, with the costs on whose Pareto front each is."""
    best: dict[int, list[str]] = {index: [] for index in range(len(points))}
    for name in costs_of(points):
        costs = {i: cost for i, p in enumerate(points) if (cost := p.cost(name)) is not None}
        front = pareto_front([*costs.values()], [points[index].top1 for index in costs])
        for index, is_best in zip(costs, front, strict=True):
            if is_best:
                best[index].append(name)
    return [
        replace(point, best_by=" ".join(names))
        for point, names in zip(points, best.values(), strict=True)
    ]


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[bool]:
    """The Pareto front: points that no other beats, as cheap and better, or as good and cheaper."""
    front = [False] * len(costs)
    best: tuple[float, float] | None = None
    for index in sorted(range(len(costs)), key=lambda index: (costs[index], -values[index])):
        point = costs[index], values[index]
        if best is None or point[1] > best[1]:
            best = point
        front[index] = point == best
    return front


def read_points(paths: Iterable[str | os.PathLike[str]]) -> list[FrontierPoint]:
    """The points of result files; those that differ by their seed only are averaged.

    # Raises
        EnsembleError: if a file can't be read, or a value is missing or out of range; the message
            names it.
    """
    found: dict[tuple[Any, ...], dict[_Training, FrontierPoint]] = {}
    for path in paths:
        for point, training in _read(os.fspath(path)):
            size = point.bytes if training.seed is None else None
            key = *point.curve, point.members, point.model, training.settings, size
            # The same point in two files counts once.
            found.setdefault(key, {})[training] = point
    points: list[FrontierPoint] = []
    for alike in found.values():
        seeds = {(training.seed, training.split_seed) for training in alike}
        if len(seeds) == len(alike):
            points.append(_average([*alike.values()]))
        else:  # they differ by more than seeds, such as a teacher or the number of images
            points += alike.values()
    return _named_apart(points)


def _named_apart(points: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    """The points; the names of curves that share one say what they differ in."""
    curves = {point.curve for point in points}
    named = []
    for point in points:
        alike = [curve for curve in curves if curve[:2] == point.curve[:2]]
        differing = [len({*values}) > 1 for values in zip(*alike, strict=True)][2:]
        told = (
            point.trained_members and f"M = {point.trained_members}",
            point.scheme,
            point.sharing and f"sharing {point.sharing}",
        )
        parts = [part for part, differs in zip(told, differing, strict=True) if differs and part]
        named.append(replace(point, name=", ".join([point.name, *parts])))
    return named


class _Training(NamedTuple):
    """What network a point is of.

    # Arguments
        run, settings: digests, any text; empty: not told.
        seed, split_seed: of the training, and of its validation split.
        samples: images that the accuracy is of, if the run is told.
    """

    run: str
    settings: str
    seed: int | None
    split_seed: int | None
    samples: int | None


def _read(path: str) -> Iterator[tuple[FrontierPoint, _Training]]:
    """The points of a file, each with its training."""
    if is_tflite(path):
        raise EnsembleError(
            f"{path!r} is a .tflite file, and its points come from a result file: in a checkout "
            "`python benchmarks/alternatives.py measure` writes one of the run or the Keras file "
            "that it was made of."
        )
    content = read_json(
        path, "give runs, or result files as benchmarks/alternatives.py writes them"
    )
    listed, dataset = content.get("points"), content.get("dataset")
    split = content.get("split", "test")
    if not isinstance(listed, list) or not isinstance(dataset, str):
        raise EnsembleError(  # keys of the file in quotes: in backticks they would be arguments
            f"{path!r} is no result file: it needs 'dataset', a name, and 'points', a list."
        )
    if split not in ("test", "validation"):
        raise EnsembleError(f"{path!r}: 'split' must be 'test' or 'validation', got {split!r}.")
    for number, values in enumerate(listed):
        if not isinstance(values, Mapping):
            raise EnsembleError(f"{path!r}: point {number} must be an object, got {values!r}.")
        value = _Values(values, f"{path!r}: point {number}")
        instructions = values.get("instructions") or {}
        if not isinstance(instructions, Mapping) or not all(
            is_number(count) and count > 0 for count in instructions.values()
        ):
            raise EnsembleError(
                f"{value.place}: 'instructions' must be numbers above 0 by core, got "
                f"{instructions!r}."
            )
        members = value.count("members") or 1
        trained_members = value.count("trained_members")
        if trained_members is not None and members > trained_members:
            raise EnsembleError(
                f"{value.place}: 'members' must be at most 'trained_members', "
                f"{trained_members}, got {members}."
            )
        point = FrontierPoint(
            run=path,
            model=str(values.get("model", "")),
            dataset=dataset,
            scheme=str(values.get("scheme", "")),
            sharing=str(values.get("sharing", "")),
            trained_members=trained_members,
            members=members,
            top1=value.checked("top1", lambda x: is_number(x) and 0 <= x <= 100, "0 to 100"),
            split=split,
            samples=value.count("samples"),
            bytes=value.count("bytes"),
            macs=value.count("macs"),
            binary_macs=None,
            real_macs=None,
            paper_energy_mj=None,
            name=value.checked("name", lambda x: isinstance(x, str) and x != "", "a name"),
            kind=value.checked("kind", KINDS.__contains__, f"one of {', '.join(KINDS)}"),
            ram_bytes=value.count("ram_bytes"),
            instructions=dict(instructions),
            kept=value.count("kept") or 0,
        )
        run = str(values.get("run", ""))
        training = _Training(
            run=run,
            settings=str(values.get("settings", "")),
            seed=value.checked("seed", _is_seed, "a whole number"),
            split_seed=value.checked("split_seed", _is_seed, "a whole number"),
            samples=point.samples if run else None,
        )
        yield with_interval(point), training


@dataclass(frozen=True)
class _Values:
    """The values of a point, with the place for errors."""

    values: Mapping[str, Any]
    place: str

    def checked(self, name: str, is_valid: Callable[[Any], bool], expected: str) -> Any:
        value = self.values.get(name)
        if not is_valid(value):
            raise EnsembleError(f"{self.place}: {name!r} must be {expected}, got {value!r}.")
        return value

    def count(self, name: str) -> int | None:
        if self.values.get(name) is None:
            return None
        is_count = lambda x: isinstance(x, int) and not isinstance(x, bool) and x > 0  # noqa: E731
        return int(self.checked(name, is_count, "a whole number above 0"))


def _is_seed(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def with_interval(point: FrontierPoint) -> FrontierPoint:
    """The point with Wilson's interval of its accuracy, if the number of images is known."""
    if point.samples is None:
        return point
    low, high = wilson_interval(point.top1, point.samples)
    return replace(point, top1_low=low, top1_high=high)


def _average(points: Sequence[FrontierPoint]) -> FrontierPoint:
    first, *others = points
    if not others:
        return first
    top1 = [point.top1 for point in points]
    mean, deviation = float(np.mean(top1)), float(np.std(top1, ddof=1))
    return replace(
        first,
        top1=mean,
        seeds=len(points),
        top1_low=max(mean - deviation, 0.0),
        top1_high=min(mean + deviation, 100.0),
    )


def write_points_csv(path: str | os.PathLike[str], points: Sequence[FrontierPoint]) -> None:
    """Writes points as CSV, a column for each field, and for each core."""
    cores = sorted({core for point in points for core in point.instructions})
    rows = []
    for point in points:
        row = asdict(point)
        of_cores = row.pop("instructions")
        rows.append({**row, **{f"{_INSTRUCTIONS}{core}": of_cores.get(core) for core in cores}})
    text = io.StringIO()
    writer = csv.DictWriter(text, [*rows[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
