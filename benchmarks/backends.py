"""One table: file x back end x kernel x core, and whether each answers as Keras does.

    larq-ensemble convert runs/fusion --out fusion.tflite
    python benchmarks/backends.py runs/fusion=fusion.tflite --cpu cortex-a72 --cpu cortex-a76 \\
      --counter COUNTER --json backends.json --markdown backends.md

takes any number of pairs RUN=F.tflite, each a file for LCE, makes the files for stock runtimes of
it, and writes for each of these and each kernel that runs it

- instructions once an image, a member, and all members, by core (`arm_cost.py`, which says what
  COUNTER is; without it LCE isn't counted, and nothing compares with separate models);
- bytes of the file, and memory of a process that runs all members on this machine;
- the processor time of all members on this machine as a ratio to LCE's indirect kernel, the median
  over rounds in which each runs once;
- the share of images of the run's test set for which the ensemble, and a member, predict the class
  that Keras predicts.

Rows of other networks and kernels that the file of `--json` has stay, so that one kernel, or one
network, can be measured anew.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import functools
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import arm_cost
import click
import numpy as np

from larq_ensemble.cli import run_command
from larq_ensemble.convert import convert_file
from larq_ensemble.convert.memory import resident_bytes
from larq_ensemble.errors import EnsembleError
from larq_ensemble.legalization import FILTERS
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.backends import KERNELS
from larq_ensemble.runtime.combination import combine
from larq_ensemble.runtime.file import read_ensemble


class Way(NamedTuple):
    """A way to run a network: a form of its file, and what runs it."""

    form: str
    backend: str
    kernel: str


LCE_FILE = "LCE"
#: What the times of this machine are compared with.
REFERENCE = Way(LCE_FILE, "lce", "indirect")
WAYS = (
    *(
        Way(LCE_FILE, backend, kernel)
        for backend in ("lce", "litert")
        for kernel in KERNELS[backend]
    ),
    *(Way(filters, "litert", "builtin") for filters in FILTERS),
)
ROUNDS = 20
HEADINGS = (
    *("network", "file", "run by", "bytes", "memory, bytes"),
    *("once an image", "a member", "all members", "to separate LCE models"),
    *("x86 time to LCE", "as Keras: ensemble", "members"),
)


@click.command()
@click.argument("pairs", nargs=-1, required=True, metavar="RUN=F.tflite...")
@click.option("--cpu", "cores", multiple=True, metavar="CORE", help="Of LiteRT; repeatable.")
@click.option("--counter", metavar="PATH", help="The program that counts LCE's kernels.")
@click.option("--delegate", metavar="LIBRARY", help="For aarch64  [default: the wheel's]")
@click.option(
    "--kernel",
    "kernels",
    multiple=True,
    type=click.Choice(list(dict.fromkeys(way.kernel for way in WAYS))),
    help="Measure only this one; repeatable.",
)
@click.option("--images", type=click.IntRange(1), default=1000, show_default=True, help="Of tests.")
@click.option("--data-dir", metavar="DIR", help="Of the data set.")
@click.option("--json", "json_path", metavar="FILE", help="Update these rows.")
@click.option("--markdown", metavar="FILE", help="Write the table here.")
@click.option("--plot", metavar="OUT", help="Draw the instructions: OUT.png, OUT.pdf.")
def main(
    pairs: tuple[str, ...],
    cores: tuple[str, ...],
    counter: str | None,
    delegate: str | None,
    kernels: tuple[str, ...],
    images: int,
    data_dir: str | None,
    json_path: str | None,
    markdown: str | None,
    plot: str | None,
) -> None:
    """Compare the back ends on networks, by instructions, bytes, memory, time and answers."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    if json_path and Path(json_path).exists():
        rows = {_key(row): row for row in json.loads(Path(json_path).read_text())}
    ways = [way for way in WAYS if not kernels or way.kernel in kernels]
    for pair in pairs:
        run, found, file = pair.partition("=")
        if not found:
            raise click.UsageError(f"{pair!r} is no pair RUN=F.tflite.")
        with tempfile.TemporaryDirectory() as folder:
            files = forms(file, Path(folder))
            facts = measured(run, files, ways, images, data_dir)
            for row in counted(run, files, list(facts), cores, counter, delegate):
                row |= facts[Way(row["form"], row["backend"], row["kernel"])]
                rows[_key(row)] = row
        if json_path:
            Path(json_path).write_text(json.dumps(list(rows.values()), indent=2))
        text = table(list(rows.values()))
        if markdown:
            Path(markdown).write_text(text)
    print(text)
    if plot:
        draw(list(rows.values()), plot)


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("network", "form", "backend", "kernel", "cpu"))


def forms(file: str, folder: Path) -> dict[str, Path]:
    """The file for LCE and those for stock runtimes, which are made of it in the folder."""
    files = {LCE_FILE: Path(file)}
    for filters in FILTERS:
        files[filters] = folder / f"{filters}.tflite"
        convert_file(file, files[filters], filters=filters)
    return files


def counted(
    run: str,
    files: Mapping[str, Path],
    ways: Sequence[Way],
    cores: Sequence[str],
    counter: str | None,
    delegate: str | None,
) -> list[dict[str, Any]]:
    """The instructions of each way on each core, as `arm_cost` gives them."""
    single = {} if counter is None else _single(counter, run)
    rows = []
    for way in ways:
        file, ensemble = str(files[way.form]), read_ensemble(files[way.form])
        if way.backend == "litert":
            found = [arm_cost.litert_row(file, core, way.kernel, delegate) for core in cores]
        elif counter is not None:
            found = [arm_cost.lce_row(counter, ensemble, way.kernel, xnnpack=False)]
        else:
            found = []
        network = {"network": files[LCE_FILE].stem, "form": way.form}
        rows += [network | arm_cost.described(file, ensemble, row, single) for row in found]
    return rows


@functools.lru_cache(maxsize=1)
def _single(counter: str, run: str) -> dict[str, int]:
    return arm_cost.reference(counter, run, xnnpack=False)


def measured(
    run: str, files: Mapping[str, Path], ways: Sequence[Way], count: int, data_dir: str | None
) -> dict[Way, dict[str, Any]]:
    """Memory, time and agreement with Keras on this machine, for each way that is installed."""
    interpreters = {}
    for way in dict.fromkeys([*ways, REFERENCE]):
        try:
            interpreters[way] = EnsembleInterpreter(
                files[way.form], backend=way.backend, kernel=way.kernel
            )
        except EnsembleError as error:  # not installed here
            click.echo(f"{files[way.form]}, {way.backend}, {way.kernel}: {error}", err=True)
    images, expected = _keras(run, count, data_dir)
    times = _seconds(interpreters, images[:1])
    facts: dict[Way, dict[str, Any]] = {}
    answers: dict[tuple[str, ...], np.ndarray] = {}
    for way, interpreter in interpreters.items():
        if way not in ways:
            continue
        # LCE's kernels give equal logits, and the default one takes five times as long here.
        same = way[:2] if way.backend == "lce" else way
        if same not in answers:
            answers[same] = interpreter.predict_logits(images)
        logits = answers[same]
        keras_logits = expected[: len(logits)]
        classes, keras_classes = (
            combine(each, interpreter.scheme, interpreter.weights).argmax(-1)
            for each in (logits, keras_logits)
        )
        facts[way] = {
            "resident_bytes": resident_bytes(
                files[way.form], backend=way.backend, kernel=way.kernel, repetitions=1
            ),
            "images": len(images),
            "ensemble_agreement": float((classes == keras_classes).mean()),
            "member_agreement": float((logits.argmax(-1) == keras_logits.argmax(-1)).mean()),
            "time_ratio": float(np.median(times[way] / times[REFERENCE]))
            if REFERENCE in times
            else None,
        }
    return facts


@functools.lru_cache(maxsize=1)  # other files of the run come next
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
    interpreters: Mapping[Way, EnsembleInterpreter], image: np.ndarray
) -> dict[Way, np.ndarray]:
    """Processor times of each by round; other work on the machine slows all of a round.

    Of wall-clock times it would slow the longer ones more.
    """
    for interpreter in interpreters.values():
        interpreter.predict(image)
    times = np.empty((ROUNDS, len(interpreters)))
    for row in times:
        for column, interpreter in enumerate(interpreters.values()):
            start = time.process_time()
            interpreter.predict(image)
            row[column] = time.process_time() - start
    return dict(zip(interpreters, times.T))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown, the cores of one way in one line."""
    by_core: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        by_core.setdefault(_key(row)[:-1], []).append(row)
    # By network, then as in WAYS.
    networks = list(dict.fromkeys(row["network"] for row in rows))
    order = sorted(by_core, key=lambda key: (networks.index(key[0]), WAYS.index(Way(*key[1:]))))
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += ["| " + " | ".join(_cells(by_core[key])) + " |" for key in order]
    return "\n".join(lines) + "\n"


def _cells(cores: Sequence[dict[str, Any]]) -> list[str]:
    """A line: instructions in millions and their ratio, by core where they differ by 1 %."""

    def each(key: str, scale: float = 1) -> str:
        values = [row[key] / scale for row in cores if row[key] is not None]
        if values and max(values) < 1.01 * min(values):
            values = values[:1]
        return ", ".join(f"{value:.3g}" if value >= 100 else f"{value:.2f}" for value in values)

    row = cores[0]
    memory, time_ratio = row["resident_bytes"], row["time_ratio"]
    return [
        *(row["network"], row["form"], f"{row['backend']} {row['kernel']}"),
        f"{row['bytes']:,}",
        "" if memory is None else f"{memory:,}",
        *(each(f"instructions_{part}", 1e6) for part in ("once", "member", "ensemble")),
        each("ratio"),
        "" if time_ratio is None else f"{time_ratio:.2f}",
        *(f"{100 * row[f'{part}_agreement']:.1f} %" for part in ("ensemble", "member")),
    ]


def draw(rows: Sequence[dict[str, Any]], out: str) -> None:
    """Instructions of all members: a panel a network, a bar for each way and core."""
    from larq_ensemble.training.plots import new_figure, save

    networks = list(dict.fromkeys(row["network"] for row in rows))
    figure, panels = new_figure(len(networks))
    for axes, network in zip(panels, networks):
        bars = {
            f"{row['form']}, {row['kernel']}, {row['cpu'] or 'any core'}": row
            for row in rows
            if row["network"] == network
        }
        axes.barh(list(bars), [row["instructions_ensemble"] / 1e6 for row in bars.values()])
        axes.set_xlabel("million arm64 instructions, all members")
        axes.set_title(network)
    panels[0].invert_yaxis()  # which all share
    save(figure, out)


if __name__ == "__main__":
    run_command(main)
