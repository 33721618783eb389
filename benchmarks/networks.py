"""Which networks become ensembles and files: Larq's zoo, tutorials and guides, policy by policy.

Builds an ensemble of each network of `tests/zoo.py` with each sharing policy, converts it, and
compares the file with Keras on random images. The networks are small and untrained, with batch
norms as after a training. What is refused is refused with its reason.

    python benchmarks/networks.py
    python benchmarks/networks.py --network mnist_tutorial --network quicknet
    python benchmarks/networks.py --write docs/networks.md
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import re
import sys
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from page import made_by, write_between, write_option

from larq_ensemble.cli import run_command
from larq_ensemble.network.sharing import POLICIES

MEMBERS, IMAGES = 3, 64
sys.path.append(str(Path(__file__).parents[1] / "tests"))  # of `zoo`
#: The generated part of the page is between these two lines.
BEGIN, END = "<!-- networks: by benchmarks/networks.py -->", "<!-- end of networks -->"


@dataclass(frozen=True)
class Outcome:
    """What became of a network with a policy.

    # Arguments
        bytes: of the file, without its metadata.
        values: bytes of the constants in it: the rest is the graph.
        lower_bound: the least bytes that hold the values.
        agreement: share (0..1) of images and members with Keras's class. From the logits of a
            member the mean over images is taken off, so that a network that gives all images the
            same class can't hide that it is converted wrongly.
        same_as: the policy with the same shared layers, whose file this is; `None`: its own.
        refused: the reason; `None`: it was converted.
    """

    bytes: int = 0
    values: int = 0
    lower_bound: int = 0
    agreement: float = 0.0
    same_as: str | None = None
    refused: str | None = None

    @property
    def ratio(self) -> float:
        return self.values / self.lower_bound


def outcomes(name: str, policies: Iterable[str], folder: Path) -> dict[str, Outcome]:
    """The outcomes of one network by policy; one file for policies that share the same layers."""
    from larq_ensemble.errors import EnsembleError
    from larq_ensemble.models.classifier import classifier
    from larq_ensemble.models.graph import shared_layers
    from larq_ensemble.network.sharing import has_own_head_bias

    try:
        backbone = classifier(_network(name))
    except EnsembleError as error:
        return dict.fromkeys(policies, Outcome(refused=str(error)))
    found: dict[str, Outcome] = {}
    first: dict[Any, str] = {}
    for policy in policies:
        shared = shared_layers(policy, backbone), has_own_head_bias(policy)
        same = first.setdefault(shared, policy)
        if same != policy:
            found[policy] = replace(found[same], same_as=same)
            continue
        try:
            found[policy] = _converted(_network(name), policy, folder)
        except EnsembleError as error:
            found[policy] = Outcome(refused=str(error))
    return found


def _network(name: str) -> Any:
    """A network with the same weights at every call."""
    import zoo

    from larq_ensemble.keras import keras

    keras.utils.set_random_seed(0)
    return zoo.settled(zoo.NETWORKS[name]())


def _converted(backbone: Any, policy: str, folder: Path) -> Outcome:
    import zoo

    from larq_ensemble import build_ensemble
    from larq_ensemble.convert import convert_ensemble
    from larq_ensemble.convert.inspection import inspect_file
    from larq_ensemble.data.normalization import Normalization
    from larq_ensemble.runtime import EnsembleInterpreter

    channels = backbone.input_shape[-1]
    normalization = Normalization([0.5] * channels, [0.25] * channels)
    ensemble = build_ensemble(backbone, MEMBERS, sharing=policy, normalization=normalization)
    _move_apart(ensemble)
    path = folder / "ensemble.tflite"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of random images' scale
        report = convert_ensemble(ensemble, path)
    images = zoo.images(IMAGES, backbone.input_shape[1:], seed=1)
    pixels = np.clip(np.rint((images * 0.25 + 0.5) * 255), 0, 255).astype(np.uint8)
    theirs = ensemble(normalization(pixels.astype(np.float32)), training=False)[:MEMBERS]
    expected = np.stack([np.asarray(logits) for logits in theirs])
    ours = EnsembleInterpreter(path).predict_logits(pixels)
    agreement = (_centered_classes(ours) == _centered_classes(expected)).mean()
    categories = inspect_file(path).categories
    size = report.bytes - categories["metadata"]
    return Outcome(size, size - categories["graph"], report.lower_bound_bytes, float(agreement))


def _move_apart(ensemble: Any) -> None:
    """Changes what members own, as training would, so that no two have the same filters."""
    draw = np.random.default_rng(3)
    for member in range(ensemble.members):
        for weight in (w for layer in ensemble.own_layers(member) for w in layer.trainable_weights):
            value = weight.numpy()
            weight.assign(value + 0.3 * (value.std() or 0.3) * draw.normal(size=value.shape))


def _centered_classes(logits: np.ndarray) -> np.ndarray:
    """The classes of `[members, images, classes]`, without what all images have in common."""
    # Rounded: where all images have the same logits, noise would decide.
    return (logits - logits.mean(axis=1, keepdims=True)).round(4).argmax(axis=-1)


def table(found: dict[str, dict[str, Outcome]]) -> str:
    """The table of all outcomes in Markdown, and the reasons of what was refused."""
    reasons: dict[str, int] = {}
    policies = list(next(iter(found.values())))
    lines = [f"| network | {' | '.join(policies)} |", "|---" * (1 + len(policies)) + "|"]
    for name, by_policy in found.items():
        cells = [cell(by_policy[policy], reasons) for policy in policies]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([*lines, *(["", "Refused:", "", *notes] if notes else [])])


def cell(outcome: Outcome, reasons: dict[str, int]) -> str:
    if outcome.refused:
        # Layers have other names by network and policy, but the reason is the same.
        reason = re.sub(r"member_\d+_|_\d+(?=')", "", outcome.refused)
        return f"refused ({reasons.setdefault(reason, len(reasons) + 1)})"
    if outcome.same_as:
        return f"= {outcome.same_as}"
    agreement = "" if outcome.agreement == 1 else f", {outcome.agreement:.1%} agree"
    return f"{outcome.bytes:,} B, {outcome.ratio:.2f}{agreement}"


def versions() -> str:
    """The packages that a file's bytes depend on."""
    from larq_ensemble.runs import package_versions

    found = package_versions(("larq", "larq-compute-engine", "tensorflow"))
    return ", ".join(f"{name} {version}" for name, version in found.items())


@click.command()
@click.option("--network", "names", multiple=True, help="Only this one; repeatable.")
@write_option
def main(names: tuple[str, ...], page: Path | None) -> None:
    """Print the table of networks."""
    import zoo

    found: dict[str, dict[str, Outcome]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names or zoo.NETWORKS:
            found[name] = outcomes(name, POLICIES, Path(folder))
            print(
                name, *(cell(found[name][policy], {}) for policy in POLICIES), sep="  ", flush=True
            )
    if page is None:
        print(table(found))
    else:
        made = f"{made_by('benchmarks/networks.py').removesuffix('.')} with {versions()}."
        write_between(page, BEGIN, END, f"{table(found)}\n\n{made}")


if __name__ == "__main__":
    run_command(main)
