"""The tables and figures of Kim et al. 2022 by name: what they show, ours next to the paper's.

Tables 1 and 2 and Fig. 7b are counted from the layers, exact, without TensorFlow. The others are
trained: what is missing is trained, what was interrupted goes on, what is finished is used as it
is. The panels are assigned by content: a name here says what the paper's data of that content
are about, and every row of the CSV says exactly what it is.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from larq_ensemble.data.datasets import DATASETS, DataOptions
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import write_text
from larq_ensemble.network.architectures import trace_model
from larq_ensemble.network.storage import account
from larq_ensemble.registry import Registry
from larq_ensemble.runs import Run, load_run
from larq_ensemble.training.paper import numbers as paper
from larq_ensemble.training.recipes import RECIPES, Recipe, Recipes

OURS = "ours"
PAPER = "paper"
SINGLE = "single network"
TOP1 = "test top-1"
WEIGHTS = "weights"


@dataclass(frozen=True)
class Curve:
    """Ensembles of one kind, by M.

    # Arguments
        label: what the legend calls it.
        model, dataset, scheme, sharing: of every ensemble on it.
    """

    label: str
    model: str
    dataset: str
    scheme: str = "fusion"
    sharing: str = "fusion"


@dataclass(frozen=True)
class BlockTable:
    """Bits of one network's weights by block, as the paper counts them.

    # Arguments
        classes: of the linear layers to list.
    """

    title: str
    model: str
    classes: tuple[int, ...]
    note: str


@dataclass(frozen=True)
class StorageFigure:
    """Bits of ensembles' weights by M, as the paper counts them."""

    title: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class AccuracyFigure:
    """Test top-1 of ensembles by M, and of the pretrained single network."""

    title: str
    curves: tuple[Curve, ...]


Figure = BlockTable | StorageFigure | AccuracyFigure

FIGURES: Registry[Figure] = Registry("table or figure")


def _curves(
    model: str, *, schemes: Sequence[str] = (), sharing: Sequence[str] = ()
) -> tuple[Curve, ...]:
    return (
        *(Curve(name, model, "cifar100", scheme=name) for name in schemes),
        *(Curve(name, model, "cifar100", sharing=name) for name in sharing),
    )


_SHARED_OR_NOT = (
    Curve("shared filters (fusion)", "resnet20", "cifar100"),
    Curve("independent filters (none)", "resnet20", "cifar100", sharing="none"),
)

_PAPERS: dict[str, Figure] = {
    "table1": BlockTable(
        "Table 1: weights of XNOR-ResNet-20 by block",
        "resnet20",
        (10, 100),
        "The paper's counting: 32 bits for a real weight, 1 for a binary one, nothing else.",
    ),
    "table2": BlockTable(
        "Table 2: weights of XNOR-ResNet-18 by block",
        "resnet18",
        (10,),
        "The paper's counting, as in Table 1. It prints three digits; its exact values are here.",
    ),
    "fig5a": AccuracyFigure(
        "Fig. 5a: fusion by the number of members, ResNet-20 on CIFAR-10",
        (Curve("fusion", "resnet20", "cifar10"),),
    ),
    "fig5b": AccuracyFigure(
        "Fig. 5b: fusion by the number of members, ResNet-20 on CIFAR-100",
        _curves("resnet20", schemes=["fusion"]),
    ),
    "fig6": AccuracyFigure(
        "Fig. 6: ensemble schemes, ResNet-20 on CIFAR-100",
        _curves("resnet20", schemes=["fusion", "voting", "bagging", "boosting"]),
    ),
    "fig7a": AccuracyFigure(
        "Fig. 7a: shared against independent filters in accuracy, ResNet-20 on CIFAR-100",
        _SHARED_OR_NOT,
    ),
    "fig7b": StorageFigure(
        "Fig. 7b: shared against independent filters in storage, ResNet-20, 100 classes",
        _SHARED_OR_NOT,
    ),
    "fig8": AccuracyFigure(
        "Fig. 8: what members share, fusion ensembles of ResNet-20 on CIFAR-100",
        _curves("resnet20", sharing=["fusion", "all_frozen", "c1", "c2", "c3"]),
    ),
    "fig9": AccuracyFigure(
        "Fig. 9: other networks on CIFAR-100",
        (
            *_curves("resnet18", schemes=["fusion", "voting", "bagging"]),
            *_curves("birealnet18", schemes=["fusion", "voting", "bagging"]),
            *_curves("reactnet10", schemes=["bagging"]),
        ),
    ),
}
for _name, _figure in _PAPERS.items():
    FIGURES.register(_name, _figure)


@dataclass(frozen=True)
class Settings:
    """How the networks of a figure are trained.

    # Arguments
        data: place, validation split and limits of the data; the paper holds nothing out.
        recipe: name of the recipes.
        epochs, pretrain_epochs: of ensembles and backbones in place of the recipe's.
        dataset: another data set in place of the figure's; the paper has nothing on it.
        width: multiplies the channels of every network.
        seed: of everything that is random.
    """

    data: DataOptions
    recipe: str = "paper"
    epochs: int | None = None
    pretrain_epochs: int | None = None
    dataset: str | None = None
    width: float = 1.0
    seed: int = 0

    def recipes(self, model: str, dataset: str, scheme: str = "fusion") -> Recipes:
        """The recipes for a network on a data set, with the epochs asked for."""
        recipes = RECIPES[self.recipe](DATASETS[dataset].classes, model, scheme)
        return replace(
            recipes,
            pretrain=recipes.pretrain.override(epochs=self.pretrain_epochs),
            retrain=recipes.retrain.override(epochs=self.epochs),
        )


@dataclass(frozen=True)
class Point:
    """One value of a table or figure, a row of its CSV; what does not apply is `None`.

    # Arguments
        name: of the table or figure.
        origin: `"ours"` or `"paper"`.
        quantity, value, unit: what it is.
        label: of the curve.
        source: the run directory, or where in the literature.
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


def counted_points(name: str, members: Sequence[int] | None = None) -> list[Point]:
    """The points of a table or figure of storage: exact, without training.

    # Arguments
        name: of a `BlockTable` or `StorageFigure`.
        members: the values of M of a figure; `None`: the paper's.
    """
    figure = FIGURES[name]
    if isinstance(figure, BlockTable):
        return _block_points(name, figure)
    if isinstance(figure, StorageFigure):
        return _storage_points(name, figure, members or paper.paper()["members"])
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


def _storage_points(name: str, figure: StorageFigure, counts: Sequence[int]) -> list[Point]:
    points = []
    for curve in figure.curves:
        classes = DATASETS[curve.dataset].classes
        graph = trace_model(curve.model, classes=classes)
        blocks = paper.block_bits(curve.model, classes)
        own = sum(blocks.values()) if curve.sharing == "none" else blocks["linear"]
        for members in counts:
            counted = account(graph, members=members, sharing=curve.sharing)
            theirs = sum(blocks.values()) + (members - 1) * own
            for origin, bits in ((OURS, counted.paper_total_bits), (PAPER, theirs)):
                points.append(
                    Point(
                        name,
                        origin,
                        WEIGHTS,
                        bits,
                        "bits",
                        curve.label,
                        curve.model,
                        _counted_source(origin),
                        classes=classes,
                        sharing=curve.sharing,
                        members=members,
                    )
                )
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
        members: the values of M to train; `None`: those that the paper has, curve by curve.
        progress: is told what comes next, a line each.

    # Raises
        EnsembleError: for unknown names, missing data, or a run there with other settings.
    """
    figure = FIGURES[name]
    if not isinstance(figure, AccuracyFigure):
        raise EnsembleError(f"{name!r} is counted, not trained.")
    dataset = {curve: settings.dataset or curve.dataset for curve in figure.curves}
    wanted = {
        curve: list(members or _paper_accuracies(curve) or paper.paper()["members"])
        for curve in figure.curves
    }
    backbones = {(curve.model, dataset[curve]) for curve in figure.curves}
    total = sum(1 + settings.recipes(*backbone).from_real for backbone in backbones)
    total += sum(map(len, wanted.values()))
    library = RunLibrary(Path(out) / "runs", settings, total, progress, verbose)
    points: list[Point] = []
    for curve in figure.curves:
        backbone, single = library.backbone(curve.model, dataset[curve])
        common: dict[str, Any] = {
            "name": name,
            "quantity": TOP1,
            "unit": "%",
            "model": curve.model,
            "dataset": dataset[curve],
            "classes": DATASETS[dataset[curve]].classes,
        }
        trained: dict[str, Any] = {
            **common,
            "origin": OURS,
            "recipe": settings.recipe,
            "pretrain_epochs": single["epochs"],
            "width": settings.width,
            "seed": settings.seed,
            "limit_train": settings.data.limit_train,
            "limit_test": settings.data.limit_test,
        }
        kind: dict[str, Any] = {
            "label": curve.label,
            "scheme": curve.scheme,
            "sharing": curve.sharing,
        }
        points.append(
            Point(
                **trained,
                label=SINGLE,
                members=1,
                value=single["test_top1"],
                source=str(backbone.path),
            )
        )
        for count in wanted[curve]:
            run, result = library.ensemble(backbone, curve, count)
            points.append(
                Point(
                    **trained,
                    **kind,
                    members=count,
                    value=result["test_top1"],
                    epochs=result["epochs"],
                    source=str(run.path),
                )
            )
        if settings.dataset:
            continue
        theirs: dict[str, Any] = {**common, "origin": PAPER, "source": paper.paper()["source"]}
        single_top1 = paper.single_accuracy(curve.dataset, curve.model)
        if single_top1 is not None:
            points.append(Point(**theirs, label=SINGLE, members=1, value=single_top1))
        for count, value in _paper_accuracies(curve).items():
            points.append(Point(**theirs, **kind, members=count, value=value))
    return list(dict.fromkeys(points))  # Curves of one network have their single network in common.


def _paper_accuracies(curve: Curve) -> dict[int, float]:
    return paper.accuracies(curve.dataset, curve.model, scheme=curve.scheme, sharing=curve.sharing)


class RunLibrary:
    """Run directories named by what was trained, each trained when it is first asked for.

    The ensembles of a backbone are beside it: `{model}-{dataset}-{epochs}epochs-seed{seed}/` holds
    `backbone/` and `{scheme}-{sharing}-m{M}-{epochs}epochs/`. So figures with the same folder
    share their runs.

    # Arguments
        folder: where the run directories are.
        settings: how networks are trained.
        total: how many runs will be asked for.
        progress: is told what comes next, a line each.
        verbose: Keras's verbosity.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        total: int,
        progress: Callable[[str], None],
        verbose: int | str,
    ) -> None:
        self._total = total
        self._folder = folder
        self._settings = settings
        self._progress = progress
        self._verbose = verbose
        self._backbones: dict[Path, tuple[Run, dict[str, Any]]] = {}
        self._asked = 0

    def backbone(self, model: str, dataset: str) -> tuple[Run, dict[str, Any]]:
        """The pretrained network and its result; its real-valued twin first, if it has to be."""
        settings = self._settings
        recipes = settings.recipes(model, dataset)
        recipe = recipes.pretrain
        group = f"{model}-{dataset}-{recipe.epochs}epochs-seed{settings.seed}"
        path = self._folder / group / "backbone"
        if path not in self._backbones:
            what = f"{model} on {dataset}, {recipe.epochs} epochs"
            twin = None
            if recipes.from_real:
                twin, _ = self.backbone(f"{model}_real", dataset)
                what += ", from the real-valued"

            def train() -> tuple[Run, dict[str, Any]]:
                from larq_ensemble.training.graphs import free_networks
                from larq_ensemble.training.pretrain import pretrain

                free_networks()  # of the training before; the twin is read anew
                return pretrain(
                    model, dataset, path, recipe=recipe, seed=settings.seed,
                    width=settings.width, data=settings.data,
                    from_real=load_run(twin.path) if twin else None,
                    resume=True, verbose=self._verbose,
                )  # fmt: skip

            self._backbones[path] = self._get(path, recipe, what, train, twin)
        return self._backbones[path]

    def ensemble(self, backbone: Run, curve: Curve, members: int) -> tuple[Run, dict[str, Any]]:
        """The ensemble of `members` from the backbone, and its result."""
        settings = self._settings
        dataset = backbone.config.dataset["name"]
        recipe = settings.recipes(curve.model, dataset, curve.scheme).retrain
        path = backbone.path.parent / (
            f"{curve.scheme}-{curve.sharing}-m{members}-{recipe.epochs}epochs"
        )

        def train() -> tuple[Run, dict[str, Any]]:
            from larq_ensemble.training.ensemble import train_ensemble
            from larq_ensemble.training.graphs import free_networks

            free_networks()  # of the training before; the backbone is read anew
            return train_ensemble(
                load_run(backbone.path), path, members=members, scheme=curve.scheme,
                sharing=curve.sharing, recipe=recipe, seed=settings.seed, data=settings.data,
                resume=True, verbose=self._verbose,
            )  # fmt: skip

        what = (
            f"{curve.scheme} of {members} {curve.model} on {dataset}, "
            f"sharing {curve.sharing}, {recipe.epochs} epochs"
        )
        return self._get(path, recipe, what, train)

    def _get(
        self,
        path: Path,
        recipe: Recipe,
        what: str,
        train: Callable[[], tuple[Run, dict[str, Any]]],
        twin: Run | None = None,
    ) -> tuple[Run, dict[str, Any]]:
        self._asked += 1
        head = f"{self._asked} of {self._total}: {what}"
        finished = self._finished(path, recipe, twin)
        if finished is not None:
            self._progress(f"{head}: finished already, {path}")
            return finished
        self._progress(f"{head}: {'going on' if path.exists() else 'training'}, {path}")
        return train()

    def _finished(
        self, path: Path, recipe: Recipe, twin: Run | None
    ) -> tuple[Run, dict[str, Any]] | None:
        """A finished run with these settings, without building its network to find out."""
        if not (path / "config.json").is_file():
            return None
        run = load_run(path)
        if not (run.result_path.is_file() and run.model_path.is_file()):
            return None
        config, data = run.config, self._settings.data.to_json()
        same = (
            config.recipe == recipe.to_json()
            and config.seed == self._settings.seed
            and config.transfer == ({"from_real": twin.digest} if twin else {})
            and config.model["width"] == self._settings.width
            and all(config.data[key] == value for key, value in data.items())
        )
        # With other settings, training says which when it is asked to go on.
        return (run, json.loads(run.result_path.read_text(encoding="utf-8"))) if same else None


def write_csv(path: str | os.PathLike[str], rows: Iterable[Any]) -> None:
    """Writes dataclass objects of one kind as CSV, a column for each field."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(rows[0])], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, rows))
    write_text(path, text.getvalue())
