"""Accuracy against cost of runs, for each number of members, and the Pareto fronts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from larq_ensemble.data.datasets import DATASETS, limit_key
from larq_ensemble.data.opening import identity
from larq_ensemble.data.options import ImageOptions
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import check_output_folder, read_json, write_text
from larq_ensemble.network.architectures import trace_model
from larq_ensemble.network.sharing import parse_sharing
from larq_ensemble.network.storage import account
from larq_ensemble.progress import tracked
from larq_ensemble.runs import RunConfig
from larq_ensemble.trained import KerasFile, Trained, check_binarized
from larq_ensemble.training.paper import numbers as paper
from larq_ensemble.training.points import (
    COSTS,
    FrontierPoint,
    costs_of,
    pareto_front,
    read_points,
    with_fronts,
    with_interval,
)

__all__ = ["COSTS", "FrontierPoint", "frontier", "pareto_front"]


def frontier(
    runs: Sequence[Trained],
    out: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    split: str = "test",
    data_dir: str | None = None,
    limit: int | None = None,
    results: Sequence[str | os.PathLike[str]] = (),
    progress: Callable[[str], None] = print,
) -> list[FrontierPoint]:
    """Accuracy and cost of the first m members of each run, for each m, and of result files.

    Evaluations are kept in `out`/evaluations and used again.

    # Arguments
        runs: finished runs on one data set; a backbone counts as one member.
        out: the folder.
        dataset, split, data_dir, limit: as for `larq_ensemble.training.evaluation.evaluate`.
        results: result files, see `larq_ensemble.training.points`.
        progress: called with a line before each run.

    # Raises
        EnsembleError: if the accuracies are of several data sets or splits, a run has not finished
            or is of the first of two stages, a result file is wrong, or the folder can't be written
            to.
    """
    for run in runs:
        check_binarized(run)  # the name of its network would say what it stores
    measured = read_points(results)
    datasets = {it: run for run in runs if any(it := _identity(run.config.dataset))}
    if len(datasets) > 1:
        (first, one), (second, other), *_ = datasets.items()
        raise EnsembleError(
            f"The runs are of different data sets, {str(one.path)!r} of {first[0]!r} and "
            f"{str(other.path)!r} of {second[0]!r}: their accuracies can't be compared."
        )
    cuts = {cut: run for run in runs if (cut := _cut(run.config.dataset, dataset))}
    if len(cuts) > 1:
        (cut_of_one, one), (cut_of_other, other), *_ = cuts.items()
        raise EnsembleError(
            f"The runs have other test images, {str(one.path)!r} with the `test_share` and "
            f"`split_seed` {cut_of_one} and {str(other.path)!r} with {cut_of_other}: their "
            "accuracies can't be compared."
        )
    out = check_output_folder(out)
    names = [name for name, _ in datasets]
    _check_same("data set", "data sets", [*names, *(point.dataset for point in measured)])
    splits = [split] if runs else []
    _check_same("split", "splits", [*splits, *(point.split for point in measured)])
    points: list[FrontierPoint] = []
    for number, run in enumerate(tracked(runs, "run", unit="run"), start=1):
        progress(f"{number} of {len(runs)}: {run.path}")
        metrics = _evaluation(run, out / "evaluations", dataset, split, data_dir, limit)
        if measured and _is_on_other_data(run, metrics, measured[0].dataset):
            raise EnsembleError(
                f"`dataset` {metrics['dataset']!r} is not {measured[0].dataset!r}, on which the "
                "points of the result files were measured: leave it out, or these."
            )
        points += _points(run, metrics)
    points = [with_interval(point) for point in points]
    if not points + measured:
        raise EnsembleError("There is nothing to compare: give runs, or result files with points.")
    if not costs_of(points + measured):
        raise EnsembleError(
            f"No point of {str(results[0])!r} has a cost: give 'bytes', 'ram_bytes' or "
            "'instructions'."
        )
    return with_fronts(points + measured)


def _check_same(one: str, several: str, found: Sequence[str]) -> None:
    if len(known := dict.fromkeys(found)) > 1:
        raise EnsembleError(
            f"The accuracies are on different {several}, {', '.join(map(repr, known))}, and can't "
            f"be compared: give runs and result files of one {one}."
        )


def _is_on_other_data(run: Trained, metrics: Mapping[str, Any], name: str) -> bool:
    """Whether a run, whose data have the given name if it knows them, was evaluated on others."""
    if any(_identity(run.config.dataset)):
        return not metrics.get("own_data", True)
    return bool(metrics["dataset"] != name)


def _identity(constants: Mapping[str, Any]) -> tuple[str, str]:
    """Name and fingerprint of the data: folders of the same name may hold different images.

    Both are empty of a Keras file that doesn't know its data.
    """
    source = constants.get("source", {"fingerprint": ""})
    return constants.get("name", ""), source["fingerprint"]


def _cut(constants: Mapping[str, Any], spec: str | None) -> tuple[float, int] | None:
    """What cuts the test split of data of one's own; `None`: they are built in, or not known.

    # Arguments
        constants: of the data of the run.
        spec: the data to evaluate on, if they are given.
    """
    if "source" in constants:
        images = constants["source"]["images"]
        return images["test_share"], images["split_seed"]
    is_unknown = spec is not None and spec not in DATASETS and not any(_identity(constants))
    return (ImageOptions.test_share, ImageOptions.split_seed) if is_unknown else None


def _evaluation(
    run: Trained,
    folder: Path,
    dataset: str | None,
    split: str,
    data_dir: str | None,
    limit: int | None,
) -> dict[str, Any]:
    """Metrics by members and the costs of a member; from the folder, if they are there."""
    constants, other = run.config.dataset, []
    is_own = "source" in constants
    if isinstance(run, KerasFile):  # whose digest doesn't say what data it is for
        other.append(_short(repr((_identity(constants), run.normalization.to_json()))))
    if dataset is not None:
        name, fingerprint = identity(dataset, tuple(constants["input_shape"]), data_dir=data_dir)
        is_own = fingerprint != ""
        other.append(_short(f"{name} {fingerprint}" if is_own else name))
        if is_own and "source" not in constants:
            other.append("all")  # of its images; earlier versions took a fifth
    parts = [run.digest[:16], split]
    parts += [] if limit is None else [str(limit_key(limit, is_own=is_own))]
    parts += other
    path = folder / f"{'-'.join(parts)}.json"
    if path.is_file():
        with contextlib.suppress(EnsembleError):  # damaged: evaluate again
            return read_json(path, "delete it")
    from larq_ensemble.models import layer_graph
    from larq_ensemble.network.compute import count_macs
    from larq_ensemble.training.evaluation import evaluate

    metrics = evaluate(run, dataset=dataset, split=split, data_dir=data_dir, limit=limit)
    member = run.model if run.config.kind == "backbone" else run.model.member(0)
    graph = layer_graph(member)
    macs = count_macs(graph)
    metrics = {**metrics, "binary_macs": macs.binary, "real_macs": macs.real}
    if run.config.architecture is None:  # of our networks the name says what they store
        shared = map(re.escape, run.config.ensemble.get("shared_layers", ()))
        size = account(graph, members=1, sharing=[*shared]).size
        metrics |= {"shared_bits": size.shared_bits, "member_bits": size.member_bits}
    write_text(path, json.dumps(metrics, indent=2) + "\n")
    return metrics


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _points(run: Trained, metrics: dict[str, Any]) -> list[FrontierPoint]:
    model, ensemble = run.config.model, run.config.ensemble
    width = model.get("width", 1.0)
    scheme = ensemble.get("scheme", "")
    sharing = ensemble.get("sharing", "" if scheme else "none")  # a Keras file doesn't say it
    shared_bits, member_bits = _storage(run.config, metrics)
    kept = int(ensemble.get("keep_pretrained", 0))
    points = []
    for row in metrics["by_members"]:
        members = row["members"]
        binary, real = members * metrics["binary_macs"], members * metrics["real_macs"]
        # Members that are the pretrained network differ in the order of the columns alone.
        again = max(0, min(members, kept) - 1)
        bits = shared_bits + members * member_bits
        bits -= again * (member_bits - _order_bits(run.config))
        points.append(
            FrontierPoint(
                run=str(run.path),
                model=model["name"] if width == 1 else f"{model['name']} x {width:g}",
                dataset=metrics["dataset"],
                scheme=scheme,
                sharing=sharing,
                trained_members=ensemble.get("members", 1),
                members=members,
                top1=row["top1"],
                split=metrics["split"],
                samples=metrics["samples"],
                bytes=-(-bits // 8),
                macs=binary + real,
                binary_macs=binary,
                real_macs=real,
                paper_energy_mj=paper.energy_mj(members),
                kept=kept,
            )
        )
    return points


def _storage(config: RunConfig, metrics: dict[str, Any]) -> tuple[int, int]:
    """The bits that all members share, and those of each member."""
    from larq_ensemble.ensembles.schemes import SCHEMES

    if config.architecture is None:
        return metrics["shared_bits"], metrics["member_bits"]
    model, scheme = config.model, config.ensemble.get("scheme", "")
    graph = trace_model(
        model["name"],
        input_shape=tuple(model["input_shape"]),
        classes=model["classes"],
        width=model["width"],
        revision=model["revision"],
    )
    sharing = config.ensemble.get("sharing", "none")
    size = account(
        graph,
        members=1,
        sharing=parse_sharing(sharing, own_head_bias=config.own_head_bias),
        own_filters=bool(scheme) and SCHEMES[scheme].rounded,
    ).size
    return size.shared_bits, size.member_bits + _order_bits(config)


def _order_bits(config: RunConfig) -> int:
    """The bits of a member's order of columns, in ensembles that see mirrored images."""
    return 32 * config.dataset["input_shape"][1] if config.ensemble.get("mirror") else 0
