"""Training of a fusion ensemble: our `fit` against Ensemble-PyTorch's, in alternation.

XNOR-ResNet-20, 100 classes, images of 32x32x3, Adam, one loss on the mean logits; frozen, shared
convolutions. Ours is what `larq-ensemble train` runs, with its shuffled and augmented batches. The
peer is `torchensemble.FusionClassifier` with the same network in PyTorch, made as fast as we could
without compiling it; its batches lie in memory. First the script checks that both compute the same:
logits, gradients, number of trained weights. Kinds:

    ours           as it is by default, in float32
    ours_bfloat16  with --bfloat16: frozen binary convolutions in bfloat16
    peer           fastest eager: sign makes one pass over memory, images lie channels last
    peer_plain     as one writes it: sign makes several passes, images lie channels first
    peer_compiled  peer with torch.compile
    peer_bfloat16  peer under torch.autocast to bfloat16

Every measurement is a process of its own on all cores. They take turns, so that other load on the
machine falls on both; a round changes who begins. PyTorch may live in another environment:

    python -m venv torch-env
    torch-env/bin/pip install torch numpy scikit-learn
    torch-env/bin/pip install --no-deps torchensemble

    python benchmarks/train_throughput.py --peer-python torch-env/bin/python
    python benchmarks/train_throughput.py --only ours --members 4 --rounds 1
    python benchmarks/train_throughput.py --kinds ours,peer,peer_plain,peer_compiled --json -
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import click
from fusion_steps import STEPS, Measurement, Training, last_line, measure, process_options

from larq_ensemble.cli import run_command
from larq_ensemble.console.reporting import Report, json_option, reporting
from larq_ensemble.errors import EnsembleError

PEER = Path(__file__).with_name("fusion_steps_torch.py")
PEER_VARIANTS = {
    "peer": "tuned",
    "peer_plain": "plain",
    "peer_compiled": "compiled",
    "peer_bfloat16": "bfloat16",
}
KINDS = ("ours", "ours_bfloat16", *PEER_VARIANTS)
#: Of the largest value, in double precision: two ways to sum the same.
TOLERANCE = 1e-9


def names(context: click.Context, parameter: click.Parameter, text: str) -> list[str]:
    found = text.split(",")
    if unknown := [each for each in found if each not in KINDS]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(KINDS)}.")
    return found


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))
@process_options(members="1,4,10", rounds=3)
@click.option(
    "--kinds", callback=names, default="ours,ours_bfloat16,peer", show_default=True,
    help="What to measure, commas between; ratios are to the first of the peer.",
)  # fmt: skip
@click.option("--only", type=click.Choice(["ours", "peer"]), help="Those kinds of one side.")
@click.option(
    "--peer-python", metavar="PATH", default=sys.executable,
    help="The Python that has torch and torchensemble  [default: this one]",
)  # fmt: skip
@json_option
def main(
    members: tuple[int, ...],
    batch: int,
    steps: int,
    rounds: int,
    width: float,
    kinds: list[str],
    only: str | None,
    peer_python: str,
    json_target: str | None,
) -> None:
    with reporting(json_target) as report:
        kinds = [kind for kind in kinds if kind.startswith(only or "")]
        if not kinds:
            raise EnsembleError(f"--only {only} leaves nothing of --kinds to measure.")
        if not all(map(is_ours, kinds)):
            report.result["versions"] = peer_versions(peer_python)
            if any(map(is_ours, kinds)):
                report.result["equivalence"] = check_equivalence(report, width, peer_python)
        rows = []
        for count in members:
            training = Training(count, batch, steps, width)
            measured: dict[str, list[Measurement]] = {kind: [] for kind in kinds}
            for index in range(rounds):
                for kind in kinds if index % 2 == 0 else reversed(kinds):
                    if is_ours(kind):
                        done = measure(replace(training, bfloat16=kind == "ours_bfloat16"))
                    else:
                        done = measure(training, PEER, PEER_VARIANTS[kind], python=peer_python)
                    measured[kind].append(done)
                    report.line(
                        f"M = {count}, round {index + 1}/{rounds}, {kind}: "
                        f"{done.member_images:,.0f} member-images/s, first step "
                        f"{done.first_step:.1f} s"
                    )
            rows += summaries(measured)
        report.table(
            f"Fusion of XNOR-ResNet-20, 100 classes, batch {batch}, width {width}",
            [
                "kind", "M", "member-images/s", "lowest to highest", "ratio", "first step s",
                "ratio", "peak GB", "ratio",
            ],
            [
                [
                    row["kind"], row["members"],
                    f"{row['member_images_per_second']:,.0f}",
                    "{:,.0f} to {:,.0f}".format(*row["spread"]), row["ratio"], row["first_step"],
                    row["first_step_ratio"], row["peak"] / 1e9, row["peak_ratio"],
                ]
                for row in rows
            ],
        )  # fmt: skip
        report.line(
            f"Medians of {rounds} process(es) of {steps} step(s); first step: from the start of "
            "building the ensemble, with all libraries imported; ratios: to the first of the peer "
            "with this M."
        )
        report.result["rows"] = rows


def is_ours(kind: str) -> bool:
    return kind.startswith("ours")


def summaries(measured: dict[str, list[Measurement]]) -> list[dict[str, Any]]:
    """Of each kind the medians over its processes, the spread, and ratios to the peer."""
    rows: list[dict[str, Any]] = []
    for kind, runs in measured.items():
        speeds = [run.member_images for run in runs]
        rows.append(
            {
                "kind": kind,
                "members": runs[0].training.members,
                "member_images_per_second": median(speeds),
                "spread": [min(speeds), max(speeds)],
                "build": median(run.build for run in runs),
                "first_step": median(run.first_step for run in runs),
                "peak": median(run.peak for run in runs),
            }
        )
    peer = next((row for row in rows if not is_ours(row["kind"])), None)
    for row in rows:
        for ratio, value in (
            ("ratio", "member_images_per_second"),
            ("first_step_ratio", "first_step"),
            ("peak_ratio", "peak"),
        ):
            row[ratio] = None if peer is None else row[value] / peer[value]
    return rows


def peer_versions(python: str) -> dict[str, str]:
    """# Raises
    EnsembleError: if PyTorch or Ensemble-PyTorch is missing.
    """
    program = (
        "import json, torch, torchensemble, importlib.metadata as m; "
        "print(json.dumps({p: m.version(p) for p in ('torch', 'torchensemble')}))"
    )
    try:
        return last_line([python, "-c", program])
    except (EnsembleError, OSError) as error:
        raise EnsembleError(
            f"{python} can't import torch and torchensemble ({error}): install both, `pip install "
            "torch` and `pip install torchensemble`, name the Python that has them with "
            "--peer-python, or measure ours alone with --only ours."
        ) from None


def check_equivalence(report: Report, width: float, python: str) -> dict[str, Any]:
    """Compares the peer's network with ours, weights copied, in double precision.

    # Raises
        EnsembleError: if they compute different things.
    """
    with tempfile.TemporaryDirectory() as folder:
        reference = str(Path(folder, "reference.npz"))
        last_line([sys.executable, str(STEPS), "--reference", reference, str(width)])
        found = last_line([python, str(PEER), "--compare", reference])
    differences = ", ".join(f"{each} {found[each]:.0e}" for each in ("logits", "gradients"))
    if max(found["logits"], found["gradients"]) > TOLERANCE:
        raise EnsembleError(f"The peer's network is not ours, it differs: {differences}.")
    report.line(
        f"The peer's network is ours: {found['trained'] // found['members']:,} trained weights a "
        f"member; largest differences, of the largest value: {differences}."
    )
    return found


if __name__ == "__main__":
    run_command(main)
