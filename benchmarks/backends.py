"""One table: back end x core x network, and whether each answers as Keras does.

    larq-ensemble convert runs/fusion --out fusion.tflite
    python benchmarks/backends.py runs/fusion=fusion.tflite --cpu cortex-a72 --cpu cortex-a76 \\
      --counter COUNTER --json backends.json --markdown backends.md

takes any number of pairs RUN=F.tflite and writes for each back end and kernel

- instructions once an image, a member, and all members, by core (`arm_cost.py`, which says what
  COUNTER is; without it LCE isn't counted, and nothing compares with separate models);
- bytes of the file, and memory of a process that runs all members on this machine;
- the time of all members on this machine as a ratio to LCE's indirect kernel, the median over
  rounds in which each runs once;
- the share of images of the run's test set for which the ensemble, and a member, predict the class
  that Keras predicts.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import arm_cost
import click
import numpy as np

from larq_ensemble.cli import run_command
from larq_ensemble.convert.memory import resident_bytes
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.backends import KERNELS
from larq_ensemble.runtime.combination import combine
from larq_ensemble.runtime.file import read_ensemble

#: What the times of this machine are compared with.
REFERENCE = ("lce", "indirect")
ROUNDS = 20
HEADINGS = (
    *("network", "back end", "kernel", "core"),
    *("once an image", "a member", "all members", "to separate LCE models"),
    *("bytes", "memory, bytes", "x86 time to LCE", "ensemble as Keras", "members as Keras"),
)


@click.command()
@click.argument("pairs", nargs=-1, required=True, metavar="RUN=F.tflite...")
@click.option("--cpu", "cores", multiple=True, metavar="CORE", help="Of LiteRT; repeatable.")
@click.option("--counter", metavar="PATH", help="The program that counts LCE's kernels.")
@click.option("--delegate", metavar="LIBRARY", help="For aarch64  [default: the wheel's]")
@click.option("--images", type=click.IntRange(1), default=1000, show_default=True, help="Of tests.")
@click.option("--data-dir", metavar="DIR", help="Of the data set.")
@click.option("--json", "json_path", metavar="FILE", help="Write the rows here.")
@click.option("--markdown", metavar="FILE", help="Write the table here.")
def main(
    pairs: tuple[str, ...],
    cores: tuple[str, ...],
    counter: str | None,
    delegate: str | None,
    images: int,
    data_dir: str | None,
    json_path: str | None,
    markdown: str | None,
) -> None:
    """Compare the back ends on networks, by instructions, bytes, memory, time and answers."""
    rows: list[dict[str, Any]] = []
    for pair in pairs:
        run, found, file = pair.partition("=")
        if not found:
            raise click.UsageError(f"{pair!r} is no pair RUN=F.tflite.")
        counts = counted(run, file, cores, counter, delegate)
        facts = measured(run, file, images, data_dir)
        rows += [
            row | facts[row["backend"], row["kernel"]]
            for row in counts
            if (row["backend"], row["kernel"]) in facts
        ]
        if json_path:
            Path(json_path).write_text(json.dumps(rows, indent=2))
        text = table(rows)
        if markdown:
            Path(markdown).write_text(text)
    print(text)


def counted(
    run: str, file: str, cores: Sequence[str], counter: str | None, delegate: str | None
) -> list[dict[str, Any]]:
    """The instructions of each back end, kernel and core, as `arm_cost` gives them."""
    ensemble = read_ensemble(file)
    single: dict[str, int] = {}
    rows = []
    if counter is not None:
        single = arm_cost.reference(counter, run, xnnpack=False)
        rows += arm_cost.lce_rows(counter, ensemble, xnnpack=False)
    for core in cores:
        for kernel in KERNELS["litert"]:
            rows.append(arm_cost.litert_row(file, core, kernel, delegate))
    return [arm_cost.described(file, ensemble, row, single) for row in rows]


def measured(
    run: str, file: str, count: int, data_dir: str | None
) -> dict[tuple[str, str], dict[str, Any]]:
    """Memory, time and agreement with Keras on this machine, by back end and kernel."""
    interpreters = {}
    for backend, kernels in KERNELS.items():
        for kernel in kernels:
            try:
                interpreters[backend, kernel] = EnsembleInterpreter(
                    file, backend=backend, kernel=kernel
                )
            except EnsembleError as error:  # not installed here
                click.echo(f"{file}, {backend}, {kernel}: {error}", err=True)
    images, expected = _keras(run, count, data_dir)
    members = next(iter(interpreters.values())).max_members
    facts: dict[tuple[str, str], dict[str, Any]] = {}
    for (backend, kernel), interpreter in interpreters.items():
        logits = interpreter.predict_logits(images)
        classes = combine(logits, interpreter.scheme, interpreter.weights).argmax(-1)
        keras_classes = combine(expected[:members], interpreter.scheme, interpreter.weights)
        facts[backend, kernel] = {
            "resident_bytes": resident_bytes(file, backend=backend, kernel=kernel),
            "images": len(images),
            "ensemble_agreement": float((classes == keras_classes.argmax(-1)).mean()),
            "member_agreement": float((logits.argmax(-1) == expected[:members].argmax(-1)).mean()),
        }
    times = _seconds(interpreters, images[:1])
    for name, seconds in times.items():
        known = REFERENCE in times
        facts[name]["time_ratio"] = float(np.median(seconds / times[REFERENCE])) if known else None
    return facts


def _keras(run: str, count: int, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Images of the test set, and the members' logits by Keras `[members, count, classes]`."""
    from larq_ensemble.convert.conversion import trained_ensemble
    from larq_ensemble.data.datasets import DataOptions
    from larq_ensemble.trained import data_of, open_trained

    loaded = open_trained(run, data_dir=data_dir)
    data = data_of(loaded, None, data_dir)
    test = DataOptions(data_dir, limit_test=count).load(data, loaded.config.seed).test
    images, model = np.asarray(test.images), trained_ensemble(loaded)
    outputs = model.predict([loaded.normalization(images)] * len(model.inputs), verbose=0)
    return images, np.stack(outputs[:-1])


def _seconds(
    interpreters: Mapping[tuple[str, str], EnsembleInterpreter], image: np.ndarray
) -> dict[tuple[str, str], np.ndarray]:
    """Times of each by round: other work on the machine slows all of a round."""
    for interpreter in interpreters.values():
        interpreter.predict(image)
    times = np.empty((ROUNDS, len(interpreters)))
    for row in times:
        for column, interpreter in enumerate(interpreters.values()):
            start = time.perf_counter()
            interpreter.predict(image)
            row[column] = time.perf_counter() - start
    return dict(zip(interpreters, times.T))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown: instructions in millions, shares in percent."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any]) -> list[str]:
    def millions(key: str) -> str:
        return f"{row[key] / 1e6:.2f} M"

    def ratio(key: str) -> str:
        return "" if row[key] is None else f"{row[key]:.3f}"

    def percent(key: str) -> str:
        return f"{100 * row[key]:.1f} %"

    size = row["resident_bytes"]
    return [
        *(Path(row["file"]).stem, row["backend"], row["kernel"], row["cpu"] or "any"),
        *map(millions, ("instructions_once", "instructions_member", "instructions_ensemble")),
        ratio("ratio"),
        f"{row['bytes']:,}",
        "" if size is None else f"{size:,}",
        ratio("time_ratio"),
        *map(percent, ("ensemble_agreement", "member_agreement")),
    ]


if __name__ == "__main__":
    run_command(main)
