"""What a user would take in place of a shared-filter ensemble, trained and measured alike.

    python benchmarks/alternatives.py plan --dataset cifar100 --epochs 60
    python benchmarks/alternatives.py run --dataset cifar100 --epochs 60 --out alternatives
    python benchmarks/alternatives.py measure runs/int8-rival runs/fusion --out alternatives

`plan` says what `run` trains: for each network

- a binarized backbone, and an ensemble that shares its filters;
- as many members that share nothing, from the backbone, and from scratch with bagging (BENN);
- one wider binarized network of the bytes of the ensemble;
- real-valued networks of several sizes, for int8 and for 4-bit filters: the twin, which has the
  layers of the binarized network, and the same convolutions with batch norm and ReLU behind them,
  as real-valued networks usually are.

Each network that stands by itself sees the images as often as the backbone and a member together.
Widths are computed from the bytes. `run` trains with `pretrain` and `train_ensemble`; what has
finished is not trained again, what was interrupted goes on, and `--only` takes one step at a time.

Then each is converted and the *file* is measured, as `measure` does with runs of other origin:
accuracy by number of members, bytes, the memory of its tensors (an estimate), multiply-accumulates,
and with `--cpu` instructions on emulated cores (see file_points.py). DIR/points.json has all that
were ever measured in DIR on this split, for `larq-ensemble frontier`:

    larq-ensemble frontier alternatives/points.json --out frontier

Choose on the validation split, which is the default; `--split test` is for the final figures.
`page` puts the best network within each budget of bytes and instructions into a page.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from functools import partial
from pathlib import Path
from typing import Any

import click
from file_points import VARIANTS, Measuring
from page import made_by, write_between, write_option

from larq_ensemble.cli import run_command
from larq_ensemble.console.markdown import markdown_table
from larq_ensemble.console.options import (
    INPUT,
    LIMITED,
    POSITIVE,
    CommaSeparated,
    OutputFolder,
    data_dir_option,
    seed_option,
)
from larq_ensemble.console.reporting import Report, json_option, reporting
from larq_ensemble.errors import EnsembleError, UnknownNameError
from larq_ensemble.network.architectures import MODELS, trace_model
from larq_ensemble.network.compute import count_macs
from larq_ensemble.network.graph import Content, LayerGraph, Role
from larq_ensemble.network.storage import account
from larq_ensemble.training.points import FrontierPoint, costs_of, read_points

#: Multiply-accumulates of a forward pass that a training does in a second on two cores; measured
#: with ResNet-20 (470 images a second) and DeployNet-9 (580).
MACS_PER_SECOND = 2e10
#: Bytes of a quantized file besides its values, for each convolution.
_GRAPH_BYTES = 800
#: Budgets of the page: thousand bytes, and million instructions on a Cortex-A or Cortex-M.
_KILOBYTES = (60, 110, 200, 300)
_MILLIONS = {"a": (2, 3, 5, 10, 20), "m": (10, 15, 30, 50, 100)}
#: The generated part of the page is between these two lines.
BEGIN, END = "<!-- alternatives: by benchmarks/alternatives.py -->", "<!-- end of alternatives -->"


@dataclass(frozen=True)
class Step:
    """One training.

    # Arguments
        name: of its run.
        model, width, epochs: as for `pretrain`; of an ensemble those of its backbone, and its own
            epochs, of each member.
        after: the step that trains the backbone of an ensemble.
        members, scheme, sharing, initial: of an ensemble, as for `train_ensemble`.
    """

    name: str
    model: str
    width: float
    epochs: int
    after: str | None = None
    members: int = 1
    scheme: str = "fusion"
    sharing: str = "fusion"
    initial: str = "pretrained"


@dataclass(frozen=True)
class Data:
    """What the plan has to know of the data: their classes, and the size of the images."""

    classes: int
    input_shape: tuple[int, int, int]

    def graph(self, model: str, width: float) -> LayerGraph:
        return trace_model(model, classes=self.classes, input_shape=self.input_shape, width=width)


def plan(
    models: Sequence[str],
    variants: Sequence[str],
    kilobytes: Sequence[int],
    data: Data,
    *,
    members: int,
    epochs: int,
    retrain_epochs: int,
) -> list[Step]:
    """The trainings, those that others need first.

    # Arguments
        models: binarized networks.
        variants: of their real-valued rivals, `"real"` and `"relu"`.
        kilobytes: sizes of the int8 files of real-valued networks.
        data: what they are trained on.
        members: M of all ensembles.
        epochs, retrain_epochs: of a backbone, and of a member after it.
    """
    whole = epochs + retrain_epochs
    steps = []
    for model in models:
        backbone = Step(f"{model}-backbone", model, 1.0, epochs)
        ensemble = replace(
            backbone,
            name=f"{model}-shared{members}",
            epochs=retrain_epochs,
            after=backbone.name,
            members=members,
        )
        separate = replace(
            ensemble, name=f"{model}-separate{members}", scheme="voting", sharing="none"
        )
        benn = replace(
            separate,
            name=f"{model}-benn{members}",
            scheme="bagging",
            initial="random",
            epochs=whole,
        )
        size = binarized_bytes(data.graph(model, 1.0), members)
        # In small steps words of 32 channels would be left half empty.
        wider = width_for(size, partial(_wider_bytes, data, model), step=1 / 4)
        steps += [backbone, ensemble, separate, benn]
        steps.append(Step(f"{model}-wider{wider:g}", model, wider, whole))
        for variant in variants:
            name = f"{model}_{variant}"
            if name not in MODELS:
                continue
            for size in kilobytes:
                width = width_for(1000 * size, partial(_int8_bytes, data, name), step=1 / 16)
                steps.append(Step(f"{name}-{size}kB", name, width, whole))
    return steps


def width_for(size: float, bytes_of: Callable[[float], float], *, step: float) -> float:
    """The multiple of `step`, at least one, whose bytes are closest to `size`."""
    width = step
    while bytes_of(width) < size:
        width += step
    before = width - step
    is_closer = before > 0 and size - bytes_of(before) < bytes_of(width) - size
    return before if is_closer else width


def _wider_bytes(data: Data, model: str, width: float) -> float:
    return binarized_bytes(data.graph(model, width), members=1)


def _int8_bytes(data: Data, model: str, width: float) -> float:
    return int8_bytes(data.graph(model, width))


def binarized_bytes(graph: LayerGraph, members: int) -> float:
    """About the bytes of a file with shared filters, int8 heads and compact vectors."""
    bits = {
        Content.LINEAR: 8,
        **dict.fromkeys((Content.NORM, Content.ACTIVATION, Content.BIAS), 4),
    }
    return account(_with_bits(graph, bits), members=members).total_bits / 8


def int8_bytes(graph: LayerGraph) -> float:
    """About the bytes of a real-valued network's int8 file.

    A scale and a bias for each filter take what batch norm takes.
    """
    bits = dict.fromkeys((Content.CONV, Content.LINEAR, Content.ACTIVATION), 8)
    size = account(_with_bits(graph, bits), members=1, sharing="none").total_bits / 8
    convolutions = sum(role in (Role.CONV, Role.STEM, Role.SHORTCUT, Role.BLOCK_END)
                       for role in graph.roles.values())  # fmt: skip
    return size + _GRAPH_BYTES * convolutions


def _with_bits(graph: LayerGraph, bits: dict[Content, int]) -> LayerGraph:
    return LayerGraph(
        replace(
            layer,
            stored=tuple(
                replace(item, bits=bits.get(item.content, item.bits)) for item in layer.stored
            ),
        )
        for layer in graph
    )


def hours(step: Step, images: int, data: Data, macs_per_second: float) -> float:
    """About how long a training takes."""
    macs = count_macs(data.graph(step.model, step.width)).total
    return images * step.epochs * step.members * macs / macs_per_second / 3600


def train(
    step: Step, folder: Path, dataset: str, recipe: str, options: Any, seed: int, bfloat16: bool
) -> Any:
    """The finished run of a step, trained unless it is there.

    # Arguments
        folder: of all runs.
        options: `larq_ensemble.data.datasets.DataOptions`.
    """
    from larq_ensemble.data.datasets import DATASETS
    from larq_ensemble.runs import load_run
    from larq_ensemble.training.ensemble import train_ensemble
    from larq_ensemble.training.pretrain import pretrain
    from larq_ensemble.training.recipes import recipes_for

    out = folder / f"{step.name}-{seed}"
    recipes = recipes_for(
        DATASETS[dataset].constants(), recipe, model_name=step.model, scheme=step.scheme
    )
    common: dict[str, Any] = {"seed": seed, "data": options, "resume": True, "verbose": 0}
    if step.after is None:
        chosen = recipes.pretrain.override(epochs=step.epochs)
        return pretrain(
            step.model, dataset, out, recipe=chosen, width=step.width, bfloat16=bfloat16, **common
        )[0]
    backbone = folder / f"{step.after}-{seed}"
    if not (backbone / "result.json").is_file():
        raise EnsembleError(f"{step.name!r} needs the backbone {step.after!r}: train it first.")
    # From scratch a member is trained as a backbone is.
    of_member = recipes.pretrain if step.initial == "random" else recipes.retrain
    return train_ensemble(
        load_run(backbone),
        out,
        members=step.members,
        scheme=step.scheme,
        sharing=step.sharing,
        initial=step.initial,  # type: ignore[arg-type]
        in_turn=step.scheme != "fusion",
        recipe=of_member.override(epochs=step.epochs),
        bfloat16=bfloat16 and step.sharing != "none",
        **common,
    )[0]


def budgets(paths: Sequence[str | os.PathLike[str]]) -> str:
    """A table of the best network within each budget: shared filters, and anything else.

    One member of an ensemble is a single network, and so are two that are the same on the image and
    on the mirrored one: an ensemble counts from the first member on that was trained for it. A
    budget within which there is none has no row.

    # Arguments
        paths: result files of one data set and split.
    """
    points = [
        point
        for point in read_points(paths)
        if point.members > max(1, point.kept) or not _of_several(point)
    ]
    if not points:
        raise EnsembleError("The result files hold no points.")
    rows = []
    for cost in costs_of(points):
        core = cost.partition(".")[2]
        if cost == "bytes":
            rows += [_row(points, cost, 1e3 * size, f"{size} kB") for size in _KILOBYTES]
        elif core:
            rows += [
                _row(points, cost, 1e6 * count, f"{count} million instructions, {core.title()}")
                for count in _MILLIONS["m" if core.startswith("cortex-m") else "a"]
            ]
    first = points[0]
    images = "" if first.samples is None else f"{first.samples:,} "
    sides = ("best shared filters, top-1 %", "best of the others, top-1 %")
    filled = [row for row in rows if set(row[1:]) != {"-"}]
    table = markdown_table(["within", *sides, "difference"], filled)
    return f"{first.dataset}, {images}{first.split} images:\n\n{table}"


def _row(points: Sequence[FrontierPoint], cost: str, limit: float, budget: str) -> list[str]:
    """The best of both sides within a budget."""
    within = [p for p in points if (value := p.cost(cost)) is not None and value <= limit]
    ours, other = (
        max((p for p in within if (p.kind == "shared") is shared), key=_top1, default=None)
        for shared in (True, False)
    )
    difference = "-" if ours is None or other is None else f"{ours.top1 - other.top1:+.1f}"
    return [budget, _named(ours), _named(other), difference]


def _of_several(point: FrontierPoint) -> bool:
    return point.kind == "shared" or (point.trained_members or 1) > 1


def _top1(point: FrontierPoint) -> float:
    return point.top1


def _named(point: FrontierPoint | None) -> str:
    if point is None:
        return "-"
    members = f", m = {point.members}" if point.members > 1 else ""
    spread = f" ± {point.top1_high - point.top1:.1f}" if point.seeds > 1 and point.top1_high else ""
    # Networks of several widths have one name: their bytes say which.
    size = "" if point.bytes is None else f", {point.bytes / 1e3:.0f} kB"
    # A share of whole images: rounded to hundredths first, because 62.65 is a float below it.
    top1 = Decimal(f"{point.top1:.2f}").quantize(Decimal("0.1"), ROUND_HALF_UP)
    return f"{top1}{spread}, {point.name}{members}{size}"


names = CommaSeparated("NAME,...", click.STRING, "names such as resnet20,deploynet9", dict.fromkeys)
sizes = CommaSeparated("N,...", click.IntRange(1), "whole numbers such as 60,110", dict.fromkeys)


def plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.option("--dataset", default="cifar100", show_default=True, help="Its name."),
            click.option("--model", "models", type=names, default="deploynet9,resnet20",
                         show_default=True, help="Binarized networks."),
            click.option("--variants", type=names, default="real,relu", show_default=True,
                         help="Of real-valued rivals: real, the twin; relu, as usual."),
            click.option("--kilobytes", type=sizes, default="60,110,200,300", show_default=True,
                         help="About the sizes of the int8 files."),
            click.option("--members", type=click.IntRange(2), default=10, show_default=True,
                         help="M of the ensembles."),
            click.option("--epochs", type=click.IntRange(1), default=60, show_default=True,
                         help="Of a backbone."),
            click.option("--retrain-epochs", type=click.IntRange(1), default=10, show_default=True,
                         help="Of a member after it."),
            click.option("--images", type=click.IntRange(1), default=45_000, show_default=True,
                         help="Training images, for the hours."),
            click.option("--macs-per-second", type=POSITIVE, default=MACS_PER_SECOND,
                         show_default=True, help="Of a training on this machine, for the hours."),
            click.option("--only", type=names, help="Only these steps of the plan."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def measure_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of a command that measures, which gets them as one `measuring`."""

    @functools.wraps(command)
    def measured(
        split: str,
        limit_test: int | None,
        cores: tuple[str, ...],
        delegate: str | None,
        cmsis_nn: str | None,
        out: str,
        data_dir: str | None,
        **others: Any,
    ) -> Any:
        measuring = Measuring(Path(out), split, data_dir, limit_test, cores, delegate, cmsis_nn)
        return command(measuring=measuring, **others)

    for option in reversed(
        (
            click.option("--split", type=click.Choice(["validation", "test"]),
                         default="validation", show_default=True, help="test for final figures."),
            click.option("--limit-test", type=click.IntRange(1), metavar="N",
                         help=f"Only some images of the split: {LIMITED}."),
            click.option("--cpu", "cores", multiple=True, metavar="CORE",
                         help="Count instructions on it, for example cortex-m4; repeatable."),
            click.option("--delegate", type=INPUT, metavar="LIBRARY",
                         help="For aarch64  [default: the wheel's that `make test-arm` installs]"),
            click.option("--cmsis-nn", type=INPUT, metavar="DIR",
                         help="A clone, to count int8 networks on Cortex-M."),
            click.option("--out", type=OutputFolder(), required=True, metavar="DIR",
                         help="For runs, files and points.json."),
            data_dir_option,
            json_option,
        )
    ):  # fmt: skip
        measured = option(measured)
    return measured


@click.group()
def main() -> None:
    """Train and measure what could stand in for a shared-filter ensemble."""


def _planned(given: dict[str, Any]) -> tuple[list[Step], Data]:
    """The steps that the options ask for."""
    from larq_ensemble.data.datasets import DATASETS

    dataset = DATASETS[given["dataset"]]
    data = Data(dataset.classes, dataset.input_shape)
    for name in given["models"]:
        if name not in MODELS or not MODELS[name].binary:
            raise UnknownNameError("model", name, [n for n, m in MODELS.items() if m.binary])
    for variant in given["variants"]:
        if variant not in VARIANTS:
            raise UnknownNameError("variants", variant, VARIANTS)
    steps = plan(
        [*given["models"]],
        [*given["variants"]],
        [*given["kilobytes"]],
        data,
        members=given["members"],
        epochs=given["epochs"],
        retrain_epochs=given["retrain_epochs"],
    )
    known = {step.name: step for step in steps}
    for name in given["only"] or ():
        if name not in known:
            raise UnknownNameError("only", name, known)
    return [known[name] for name in given["only"] or known], data


@main.command("plan")
@plan_options
@json_option
def plan_command(json_target: str | None, **given: Any) -> None:
    """Print what `run` would train, and about how long it takes."""
    with reporting(json_target) as report:
        steps, data = _planned(given)
        rows = [
            {**vars(step), "hours": hours(step, given["images"], data, given["macs_per_second"])}
            for step in steps
        ]
        report.table(
            f"{given['dataset']}: {sum(row['hours'] for row in rows):.1f} hours in all",
            ["step", "width", "members", "epochs", "after", "about h"],
            [
                [*(row[key] for key in ("name", "width", "members", "epochs")), row["after"] or "",
                 f"{row['hours']:.2f}"]
                for row in rows
            ],
        )  # fmt: skip
        report.result = {"steps": rows}


@main.command("run")
@plan_options
@measure_options
@seed_option
@click.option("--recipe", default="short", show_default=True, help="Of all trainings.")
@click.option("--limit-train", type=click.IntRange(2), metavar="N", help="Only N training images.")
@click.option("--bfloat16", is_flag=True, help="Train in mixed precision, see `pretrain`.")
def run_all(
    measuring: Measuring,
    json_target: str | None,
    seed: int,
    recipe: str,
    limit_train: int | None,
    bfloat16: bool,
    **given: Any,
) -> None:
    """Train what is not there yet, convert and measure all."""
    from larq_ensemble.data.datasets import DataOptions

    with reporting(json_target) as report:
        steps, _ = _planned(given)
        options = DataOptions(measuring.data_dir, limit_train=limit_train, limit_test=0)
        points = []
        for number, step in enumerate(steps, start=1):
            report.line(f"{number} of {len(steps)}: {step.name}")
            folder = measuring.folder / "runs"
            run = train(step, folder, given["dataset"], recipe, options, seed, bfloat16)
            points += measuring.points(run)
            measuring.write(given["dataset"], points)
        _finish(report, measuring, given["dataset"], points)


@main.command("measure")
@click.argument("runs", type=INPUT, nargs=-1, required=True, metavar="RUN|FILE...")
@click.option("--dataset", help="Of ensembles that Keras saved, FILE, whose curves have its name.")
@measure_options
def measure_command(
    runs: tuple[str, ...],
    dataset: str | None,
    measuring: Measuring,
    json_target: str | None,
) -> None:
    """Convert and measure finished runs of one data set, and ensembles that Keras saved."""
    from larq_ensemble.trained import KerasFile, open_trained

    with reporting(json_target) as report:
        data_dir = measuring.data_dir
        loaded = [open_trained(run, dataset=dataset, data_dir=data_dir) for run in runs]
        if dataset is not None and not any(isinstance(run, KerasFile) for run in loaded):
            raise click.UsageError("--dataset has no effect: runs have their own. Leave it out.")
        for run in loaded:
            run.dataset(data_dir=data_dir)  # a Keras file needs `dataset`
        (name, *others) = {run.config.dataset["name"] for run in loaded}
        if others:
            raise EnsembleError("The runs are of several data sets: give those of one.")
        points = []
        for number, run in enumerate(loaded, start=1):
            report.line(f"{number} of {len(runs)}: {run.path}")
            points += measuring.points(run)
        _finish(report, measuring, name, points)


@main.command("page")
@click.argument("results", type=INPUT, nargs=-1, required=True, metavar="POINTS.json...")
@write_option
def page_command(results: tuple[str, ...], page: Path | None) -> None:
    """Print the best network within each budget."""
    text = budgets(results)
    if page is None:
        click.echo(text)
        return
    write_between(page, BEGIN, END, f"{text}\n\n{made_by('benchmarks/alternatives.py')}")


def _finish(
    report: Report, measuring: Measuring, dataset: str, points: Sequence[dict[str, Any]]
) -> None:
    path = measuring.write(dataset, points)
    report.table(
        f"{points[0]['samples']:,} {measuring.split} images of {dataset}",
        ["network", "m", "top-1 %", "float %", "bytes", "RAM, bytes", "MACs", *measuring.cores],
        [
            [
                f"{point['name']} ({point['model']})", point["members"], point["top1"],
                point.get("float_top1", ""),
                point["bytes"], point["ram_bytes"], point["macs"],
                *(point["instructions"].get(core, "") for core in measuring.cores),
            ]
            for point in points
        ],
    )  # fmt: skip
    report.line(f"Wrote {path}: larq-ensemble frontier {path} --out frontier")
    report.result = {"path": str(path), "points": [*points]}


if __name__ == "__main__":
    run_command(main)
