"""The values of a table or figure: ours next to the paper's.

Tables 1 and 2 and Fig. 7b are counted from the layers, exactly and without TensorFlow. The values
of the other figures come from trainings (`larq_ensemble.training.paper.library`).
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from larq_ensemble.data.datasets import DATASETS
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import check_output_folder
from larq_ensemble.network.architectures import trace_model
from larq_ensemble.network.storage import account
from larq_ensemble.progress import working
from larq_ensemble.training.paper import numbers as paper
from larq_ensemble.training.paper.figures import (
    FIGURES,
    AccuracyFigure,
    BlockTable,
    Curve,
    StorageFigure,
)
from larq_ensemble.training.paper.library import RunLibrary, Settings

OURS = "ours"
PAPER = "paper"
SINGLE = "single network"
TOP1 = "test top-1"
WEIGHTS = "weights"


@dataclass(frozen=True)
class Point:
    """One value of a table or figure, a row of its CSV; a field that does not apply is `None`.

    # Arguments
        name: of the table or figure.
        origin: `"ours"` or `"paper"`.
        quantity, value, unit: what was counted or measured.
        label: of the curve.
        source: the run directory, or the place in the literature.
    """

    name: str
    origin: str
    quantity: str
    value: float
    unit: str
    label: str
    model: str
    source: str
    dataset: str | None = None
    classes: int | None = None
    block: str | None = None
    scheme: str | None = None
    sharing: str | None = None
    members: int | None = None
    recipe: str | None = None
    pretrain_epochs: int | None = None
    epochs: int | None = None
    width: float | None = None
    seed: int | None = None
    limit_train: int | None = None
    limit_test: int | None = None


def read_points(path: str | os.PathLike[str]) -> list[Point] | None:
    """The points of a CSV, of this version or an earlier one; `None` if it holds anything else."""
    texts = {field.name for field in fields(Point) if str(field.type).startswith("str")}

    def value(column: str, cell: str) -> Any:
        return cell if column in texts and cell else json.loads(cell or "null")

    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [*csv.DictReader(file)]
        return [Point(**{key: value(key, cell) for key, cell in row.items()}) for row in rows]
    except (OSError, ValueError, TypeError, AttributeError, csv.Error):
        return None


def with_other_members(points: Sequence[Point], there: Sequence[Point]) -> list[Point] | None:
    """Points and those of the same experiment with other M, curve by curve.

    # Arguments
        points: of a table or figure.
        there: what was written of it before.

    # Returns
        `None` if ours of before are of another experiment: a curve that was trained otherwise or
        isn't there, or the same training with another value.
    """

    def of_curve(point: Point) -> Point:
        return replace(point, members=None, value=0.0, source="")

    def key(point: Point) -> tuple[Any, ...]:
        return point.origin, point.model, point.label, point.members

    curves, new = {of_curve(point) for point in points}, {key(point): point for point in points}
    for point in there:
        same = new.get(key(point), point)
        if point.origin == OURS and (of_curve(point) not in curves or point.value != same.value):
            return None
    order = [*dict.fromkeys(key(point)[:3] for point in (*points, *there))]
    return sorted(
        ({key(point): point for point in there} | new).values(),
        key=lambda point: (order.index(key(point)[:3]), point.members or 0),
    )


def counted_points(name: str, members: Sequence[int] | None = None) -> list[Point]:
    """The points of a table or figure of storage, which need no training.

    # Arguments
        name: of a `BlockTable` or `StorageFigure`.
        members: the values of M of a figure; `None`: the paper's.

    # Raises
        EnsembleError: for an unknown name, or a figure that has to be trained.
    """
    figure = FIGURES[name]
    if isinstance(figure, BlockTable):
        return _block_points(name, figure)
    if isinstance(figure, StorageFigure):
        return _storage_points(name, figure, members)
    raise EnsembleError(f"{name!r} has to be trained: it can't be counted.")


def _block_points(name: str, table: BlockTable) -> list[Point]:
    points: dict[tuple[str, str], Point] = {}
    for classes in table.classes:
        graph = trace_model(table.model, classes=classes)
        sizes = account(graph, members=1).blocks
        ours = {block: size.paper_bits for block, size in sizes.items() if size.paper_bits}
        theirs = paper.block_bits(table.model, classes)
        for origin, bits in ((OURS, ours), (PAPER, theirs)):
            bits = {**bits, "all": sum(bits.values())}
            for block, value in bits.items():
                depends = block in ("linear", "all")
                label = f"{block}, {classes} classes" if depends else block
                points[origin, label] = Point(
                    name, origin, WEIGHTS, value, "bits", label, table.model,
                    _counted_source(origin), classes=classes if depends else None, block=block,
                )  # fmt: skip
    return list(points.values())


def _storage_points(name: str, figure: StorageFigure, counts: Sequence[int] | None) -> list[Point]:
    points = []
    for curve in figure.curves:
        classes = DATASETS[curve.dataset].classes
        graph = trace_model(curve.model, classes=classes)
        blocks = paper.block_bits(curve.model, classes)
        own = paper.own_bits(curve.model, classes, curve.sharing)
        for members in counts or curve.members:
            counted = account(graph, members=members, sharing=curve.sharing)
            theirs = sum(blocks.values()) + (members - 1) * own
            for origin, bits in ((OURS, counted.paper_total_bits), (PAPER, theirs)):
                points.append(
                    Point(
                        name, origin, WEIGHTS, bits, "bits", curve.label, curve.model,
                        _counted_source(origin),
                        classes=classes, sharing=curve.sharing, members=members,
                    )
                )  # fmt: skip
    return points


def _counted_source(origin: str) -> str:
    if origin == OURS:
        return "counted from the layers"
    return f"tables 1 and 2 of {paper.paper()['source']}"


def trained_points(
    name: str,
    out: str | os.PathLike[str],
    settings: Settings,
    *,
    members: Sequence[int] | None = None,
    progress: Callable[[str], None] = print,
    verbose: int | str = "auto",
) -> list[Point]:
    """The points of a figure of accuracy; trains what is missing below `out`/runs.

    # Arguments
        name: of an `AccuracyFigure`.
        out: the folder.
        settings: how networks are trained.
        members: the values of M to train; `None`: the paper's, curve by curve.
        progress: called with a line before each training.
        verbose: Keras's verbosity.

    # Raises
        EnsembleError: for unknown names, missing data, or a run there with other settings.
    """
    figure = FIGURES[name]
    if not isinstance(figure, AccuracyFigure):
        raise EnsembleError(f"{name!r} is counted, not trained.")
    curves = [replace(curve, dataset=settings.dataset or curve.dataset) for curve in figure.curves]
    wanted = {curve: list(members or curve.members) for curve in curves}
    backbones = {(curve.model, curve.dataset) for curve in curves}
    trainings = [
        recipes.pretrain.epochs
        for backbone in backbones
        for recipes in [settings.recipes(*backbone)]
        for _ in range(1 + recipes.from_real)
    ]
    trainings += [
        count * settings.recipes(curve.model, curve.dataset, curve.scheme).retrain.epochs
        for curve, counts in wanted.items()
        for count in counts
    ]
    points: list[Point] = []
    with working(name, sum(trainings), unit="network epoch") as work:
        folder = check_output_folder(out) / "runs"
        library = RunLibrary(folder, settings, len(trainings), progress, verbose, work)
        for curve in curves:
            points += _our_points(name, curve, wanted[curve], library, settings)
            if settings.dataset is None:
                points += _paper_points(name, curve)
    return list(dict.fromkeys(points))  # the curves of one network share its single network


def _our_points(
    name: str, curve: Curve, counts: Sequence[int], library: RunLibrary, settings: Settings
) -> list[Point]:
    backbone, single = library.backbone(curve.model, curve.dataset)
    common = {
        **_accuracy(name, curve, OURS),
        "recipe": settings.recipe,
        "pretrain_epochs": single["epochs"],
        "width": settings.width,
        "seed": settings.seed,
        "limit_train": settings.data.limit_train,
        "limit_test": settings.data.limit_test,
    }
    points = [
        Point(
            **common,
            label=SINGLE,
            members=1,
            value=single["test_top1"],
            source=str(backbone.path),
        )
    ]
    for count in counts:
        run, result = library.ensemble(backbone, curve, count)
        points.append(
            Point(
                **common,
                **_kind(curve),
                members=count,
                value=result["test_top1"],
                epochs=result["epochs"],
                source=str(run.path),
            )
        )
    return points


def _paper_points(name: str, curve: Curve) -> list[Point]:
    common = {**_accuracy(name, curve, PAPER), "source": paper.paper()["source"]}
    single = paper.single_accuracy(curve.dataset, curve.model)
    points = [] if single is None else [Point(**common, label=SINGLE, members=1, value=single)]
    return points + [
        Point(**common, **_kind(curve), members=count, value=value)
        for count, value in _paper_accuracies(curve).items()
    ]


def _accuracy(name: str, curve: Curve, origin: str) -> dict[str, Any]:
    """What all points of a curve have in common, its single network included."""
    return {
        "name": name,
        "origin": origin,
        "quantity": TOP1,
        "unit": "%",
        "model": curve.model,
        "dataset": curve.dataset,
        "classes": DATASETS[curve.dataset].classes,
    }


def _kind(curve: Curve) -> dict[str, Any]:
    return {"label": curve.label, "scheme": curve.scheme, "sharing": curve.sharing}


def _paper_accuracies(curve: Curve) -> dict[int, float]:
    return paper.accuracies(curve.dataset, curve.model, scheme=curve.scheme, sharing=curve.sharing)
