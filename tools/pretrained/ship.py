"""Puts a trained network into the package: weights, `.tflite` file and model card.

    python tools/pretrained/ship.py runs/fusion --from runs/backbone --results results/fusion
    python tools/pretrained/ship.py

With a run it converts it, evaluates the file, calibrates it, evaluates it again, verifies, inspects
and counts instructions, each by the command of that name, and writes everything that the card says
from their results. What `--results` holds already is not computed again, so an interrupted call
goes on where it was. With or without a run it then measures the files cut to their first m members,
which takes seconds, and renders docs/pretrained/ anew from the cards. `--remove NAME` takes a
network out of the package.
"""

from __future__ import annotations

import datetime
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from sample_images import ORIGINS

from larq_ensemble import pretrained
from larq_ensemble.cli import cli, run_command
from larq_ensemble.console.markdown import markdown_table
from larq_ensemble.console.options import INPUT, data_dir_option, limit_test_option
from larq_ensemble.convert import cut_file
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import file_digest, read_json, write_text
from larq_ensemble.pretrained.cards import (
    bytes_by_members,
    has_single,
    heading,
    instructions_of_a_member,
    markdown,
)
from larq_ensemble.pretrained.catalog import FOLDER, Shipped
from larq_ensemble.pretrained.samples import read_samples, sample_names
from larq_ensemble.pretrained.weights import write_weights
from larq_ensemble.runs import Run, load_run
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.combination import combine
from larq_ensemble.runtime.file import read_ensemble
from larq_ensemble.runtime.metadata import HEADS, PRECISIONS
from larq_ensemble.runtime.metrics import wilson_interval

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "pretrained"
MARKERS = ("<!-- networks: written by tools/pretrained/ship.py -->", "<!-- end of networks -->")
CORES = ("cortex-a72", "cortex-a76")
KERNEL = "delegate"
LICENCE = "Apache-2.0, as larq-ensemble"


@dataclass(frozen=True)
class Results:
    """The folder of the results of commands, and what their placeholders stand for."""

    folder: Path
    places: dict[str, str]

    @property
    def tflite(self) -> Path:
        return self.folder / "F.tflite"

    def check_of(self, **made_of: Any) -> None:
        """# Raises
        EnsembleError: if the folder has results of another run or of other options.
        """
        path, results = self.folder / "made_of.json", [*self.folder.glob("*.json")]
        before = read_json(path, "delete the folder") if path in results else None
        if before != made_of and results:
            raise EnsembleError(
                f"`results` {str(self.folder)!r} has results of {before or 'an unknown run'}, and "
                f"these would be of {made_of}: name another folder, or delete it."
            )
        write_text(path, json.dumps(made_of) + "\n")

    def of(self, name: str, command: Sequence[str]) -> dict[str, Any]:
        """The result of a command of larq-ensemble, computed if it isn't there."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            if name == "evaluate" and read_ensemble(self.tflite).metadata.temperatures:
                raise EnsembleError(
                    f"{str(self.tflite)!r} is calibrated, and {str(path)!r} is missing: delete the "
                    "folder."
                )
            arguments = [self.places.get(word, word) for word in command]
            click.echo(f"larq-ensemble {' '.join(arguments)}")
            cli.main([*arguments, "--json", str(path)], standalone_mode=False)
        return read_json(path, "delete it")

    def counted(self, core: str) -> dict[str, Any] | None:
        """The instructions on a core, counted if they aren't there; `None`: they can't be."""
        path = self.folder / f"count-{core}.json"
        if not path.exists():
            done = subprocess.run(
                [sys.executable, *_count(core, str(self.tflite))],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                click.echo(f"No instructions on {core}: {done.stderr.strip()}", err=True)
                return None
            write_text(path, done.stdout)
        return read_json(path, "delete it")


def _count(core: str, file: str) -> list[str]:
    return ["tools/arm/count.py", file, "--cpu", core, "--kernel", KERNEL]


@click.command()
@click.argument("run", type=INPUT, required=False)
@click.option("--name", help="In the package  [default: data, network, scheme and members]")
@click.option(
    "--from",
    "sources",
    type=INPUT,
    multiple=True,
    metavar="RUN",
    help="A run that this one builds on: backbone, twin, teacher; may be given several times.",
)
@click.option(
    "--seed-run", "seeds", type=INPUT, multiple=True, metavar="RUN", help="The same, another seed."
)
@click.option("--heads", type=click.Choice(HEADS), default="int8", show_default=True)
@click.option("--precision", type=click.Choice(PRECISIONS), default="float32", show_default=True)
@click.option(
    "--samples",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Test images on which Keras and the file are compared.",
)
@click.option("--results", type=INPUT, help="Folder of the results of commands; new or not.")
@click.option("--remove", metavar="NAME", help="Take this network out of the package.")
@data_dir_option
@limit_test_option
@click.pass_context
def main(
    context: click.Context,
    run: str | None,
    name: str | None,
    sources: tuple[str, ...],
    seeds: tuple[str, ...],
    heads: str,
    precision: str,
    samples: int,
    results: str | None,
    remove: str | None,
    data_dir: str | None,
    limit_test: int | None,
) -> None:
    """Put the network of a run into the package, and write docs/pretrained anew.

    Without RUN: from the cards and files that are there, with no evaluation.
    """
    if run is None:
        for option in context.command.params:
            given = context.get_parameter_source(option.name or "") is not ParameterSource.DEFAULT
            if given and option.name not in ("run", "remove"):
                raise click.UsageError(f"{option.opts[0]} has no effect without RUN: give it.")
    removed = None if remove is None else pretrained.shipped(remove)
    replaced = None
    if run is not None:
        if results is None:
            raise click.UsageError("RUN needs --results.")
        trained = load_run(run)
        stages = _stages(trained, [load_run(source) for source in sources])
        network = Shipped(name or _name(trained))
        places = {"RUN": run, "F.tflite": str(Path(results) / "F.tflite")}
        places |= {"DIR": data_dir or "", "N": str(limit_test or "")}
        Path(results).mkdir(parents=True, exist_ok=True)
        found = Results(Path(results), places)
        found.check_of(
            run=trained.digest,
            heads=heads,
            precision=precision,
            samples=samples,
            limit_test=limit_test,
        )
        data = ["--data-dir", "DIR"] if data_dir else []
        card = _card(
            *(network, trained, stages, found, data, limit_test),
            heads=heads,
            precision=precision,
            samples=samples,
            seeds=seeds,
        )
        _write_card(network, card)
        replaced = network.name
    if removed is not None and removed.name != replaced:
        for path in (removed.card_path, removed.weights_path, removed.tflite):
            path.unlink(missing_ok=True)
    for each in pretrained.names():
        _measure_cuts(pretrained.shipped(each))
    _write_pages()
    total = sum(path.stat().st_size for path in FOLDER.iterdir())
    click.echo(f"{len(pretrained.names())} networks, {total:,} bytes")


def _write_card(network: Shipped, card: Mapping[str, Any]) -> None:
    write_text(network.card_path, json.dumps(card, indent=1, ensure_ascii=False) + "\n")


def _measure_cuts(network: Shipped) -> None:
    """Writes onto an ensemble's card what its file takes if it is cut to its first m members.

    The date on a card stays as long as the bytes do.
    """
    card = network.card
    if card["members"] == 1:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "G.tflite"
        found = [cut_file(network.tflite, path, m + 1).bytes for m in range(card["members"])]
    tflite = card["files"]["tflite"]
    if tflite.get("cut", {}).get("bytes") != found:
        tflite["cut"] = {"bytes": found, "date": datetime.date.today().isoformat()}
        _write_card(network, card)


def _name(run: Run) -> str:
    model, ensemble = run.config.model, run.config.ensemble
    width = "" if model["width"] == 1 else f"-w{model['width']:g}"
    kind = f"-{ensemble['scheme'].removesuffix('_fusion')}{ensemble['members']}" if ensemble else ""
    return f"{run.config.dataset['name']}-{model['name']}{width}{kind}"


def _stages(run: Run, sources: Sequence[Run]) -> list[dict[str, Any]]:
    """What the card says of the trainings that led to this run, in order, and of it.

    Those of networks that are shipped already are on their cards, so `sources` needs not have them.

    # Raises
        EnsembleError: if one is missing, or `sources` has one that is not among them.
    """
    by_digest = {source.digest: source for source in sources}
    cards = [pretrained.shipped(name).card for name in pretrained.names()]
    on_cards = {card["run_hash"]: card["training"] for card in cards}
    stages: dict[str, dict[str, Any]] = {}

    def add(stage: Run) -> None:
        built_on = json.dumps([stage.config.transfer, stage.config.ensemble.get("backbone")])
        for digest in re.findall(r"[0-9a-f]{64}", built_on):
            if digest in stages:
                continue
            if digest in by_digest:
                add(by_digest[digest])
            elif digest in on_cards:
                stages.update({each["digest"]: each for each in on_cards[digest]})
            else:
                raise EnsembleError(
                    f"{str(stage.path)!r} builds on a run whose model has the digest {digest}: "
                    "give that run as `sources`."
                )
        stages[stage.digest] = _stage(stage)

    add(run)
    if unused := [str(source.path) for source in sources if source.digest not in stages]:
        raise EnsembleError(f"{str(run.path)!r} doesn't build on {', '.join(unused)}.")
    return [*stages.values()]


def _card(
    network: Shipped,
    run: Run,
    stages: list[dict[str, Any]],
    results: Results,
    data: list[str],
    limit_test: int | None,
    *,
    heads: str,
    precision: str,
    samples: int,
    seeds: Sequence[str],
) -> dict[str, Any]:
    """Writes the network's files, and returns what is to be said of it."""
    from larq_ensemble.ensembles.stored import stored_weights

    config = run.config
    measured = [*data, *(["--limit-test", "N"] if limit_test else [])]
    form = ["--heads", heads, "--precision", precision]
    commands = {
        "convert": ["convert", "RUN", "--out", "F.tflite", *form],
        "evaluate": ["evaluate", "F.tflite", *measured],
        "calibrate": ["calibrate", "F.tflite", *measured],
        "evaluate-calibrated": ["evaluate", "F.tflite", *measured],
        "verify": ["verify", "F.tflite", "--run", "RUN", *data, "--samples", str(samples)],
        "inspect": ["inspect", "F.tflite"],
    }
    found = {name: results.of(name, command) for name, command in commands.items()}
    counted = {core: count for core in CORES if (count := results.counted(core)) is not None}
    shutil.copyfile(results.tflite, network.tflite)
    write_weights(network.weights_path, stored_weights(run.model, config.to_json(), run.digest))
    agreement = ("samples", "member_argmax_agreement", "ensemble_argmax_agreement", "flip_rate")
    return {
        "name": network.name,
        "kind": config.kind,
        "members": config.ensemble.get("members", 1),
        "run_hash": run.digest,
        "model": config.model,
        "ensemble": {
            key: config.ensemble[key]
            for key in ("scheme", "sharing", "backbone", "mirror")
            if key in config.ensemble
        },
        "data": {
            **_picked(
                config.dataset, "name", "classes", "class_names", "input_shape", "mean", "std"
            ),
            "validation": config.validation,
            "origin": ORIGINS.get(config.dataset["name"], ""),
        },
        "training": stages,
        "accuracy": _accuracy(found, seeds),
        "files": _files(network, found["inspect"]),
        "instructions": {
            core: {
                "image": count["instructions_once"],
                "member": count["instructions_member"],
                "kernel": count["kernel"],
            }
            for core, count in counted.items()
        },
        "agreement": _picked(found["verify"], *agreement),
        "samples": _predictions(network, config.dataset["name"]),
        "commands": [
            *(f"larq-ensemble {' '.join(command)}" for command in commands.values()),
            *(f"python {' '.join(_count(core, 'F.tflite'))}" for core in counted),
        ],
        "date": datetime.date.today().isoformat(),
        "commit": _git("rev-parse", "HEAD"),
        "licence": LICENCE,
    }


def _picked(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """The entries of some keys."""
    return {key: values[key] for key in keys}


def _accuracy(found: Mapping[str, Mapping[str, Any]], seeds: Sequence[str]) -> dict[str, Any]:
    """What the card says of accuracy, from the results of the commands."""
    by_members = _by_members(found)
    cascade = _picked(found["calibrate"], "top1", "mean_members", "thresholds")
    return {
        "images": found["evaluate"]["samples"],
        **_picked(found["verify"], "backend", "kernel"),
        "by_members": by_members,
        "cascade": cascade if len(by_members) > 1 else None,
        "seeds": [
            {
                "seed": other.config.seed,
                "top1": read_json(other.result_path, "train it to its end")["test_top1"],
            }
            for other in map(load_run, seeds)
        ],
    }


def _files(network: Shipped, inspected: Mapping[str, Any]) -> dict[str, Any]:
    """What the card says of the files, which are there."""
    return {
        "tflite": {
            **_picked(inspected, "bytes", "theory_bytes", "binary_filter_copies"),
            "sha256": file_digest(network.tflite),
            **_picked(inspected["metadata"], "layout", "heads", "precision"),
        },
        "weights": {
            "bytes": network.weights_path.stat().st_size,
            "sha256": file_digest(network.weights_path),
        },
    }


def _stage(run: Run) -> dict[str, Any]:
    """What the card says of a training. The paths of a machine are not among it."""
    config = run.config
    described = config.to_json()
    described["model"] = {key: config.model[key] for key in ("name", "width")}
    described["dataset"] = {key: config.dataset[key] for key in ("name", "augmentation")}
    result = read_json(run.result_path, "train it to its end")
    return {**described, "digest": run.digest, "result": result}


def _by_members(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The metrics of the file for the first m members, before and after its calibration."""
    images, rows = found["evaluate"]["samples"], []
    for row, calibrated in zip(
        found["evaluate"]["by_members"], found["evaluate-calibrated"]["by_members"], strict=True
    ):
        low, high = wilson_interval(row["top1"], images)
        rows.append(
            {
                **row,
                "low": low,
                "high": high,
                **{f"calibrated_{key}": calibrated[key] for key in ("ece", "nll")},
            }
        )
    return rows


def _predictions(network: Shipped, dataset: str) -> dict[str, Any] | None:
    """The classes that the first m members predict for the embedded images, for each m."""
    if dataset not in sample_names():
        return None
    interpreter = EnsembleInterpreter(network.tflite)
    logits = interpreter.predict_logits(read_samples(dataset).images)
    counts = range(1, len(logits) + 1)
    combined = [combine(logits[:m], interpreter.scheme, interpreter.weights) for m in counts]
    return {"dataset": dataset, "predictions": [row.argmax(axis=1).tolist() for row in combined]}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _write_pages() -> None:
    """A page for each card, and the table of them in docs/pretrained/index.md."""
    cards = [pretrained.shipped(name).card for name in pretrained.names()]
    for page in PAGES.glob("*.md"):
        if page.stem != "index" and page.stem not in pretrained.names():
            page.unlink()
    for card in cards:
        write_text(PAGES / f"{card['name']}.md", markdown(card))
    rows = []
    for card in cards:
        first, last = (card["accuracy"]["by_members"][index] for index in (0, -1))
        member, sizes = instructions_of_a_member(card), bytes_by_members(card)
        rows.append(
            [
                f"[{card['name']}]({card['name']}.md)",
                f"{first['top1']:.1f} %",
                f"{last['top1']:.1f} % ({last['low']:.1f} to {last['high']:.1f})",
                f"{sizes[0]:,}",
                f"{sizes[-1]:,}",
                "-" if member is None else f"{member:,}",
                heading(card),
            ]
        )
    columns = ["name", "top-1 at m = 1", "top-1 at m = M (95 %)", "bytes at m = 1"]
    columns += ["bytes at m = M", "A72 instructions a member", "what it is"]
    table = markdown_table(columns, rows)
    index = PAGES / "index.md"
    before, _, rest = index.read_text(encoding="utf-8").partition(MARKERS[0])
    _, _, after = rest.partition(MARKERS[1])
    text = "\n".join([MARKERS[0], "", table, "", _examples(cards), "", MARKERS[1]])
    write_text(index, before + text + after)


def _examples(cards: Sequence[dict[str, Any]]) -> str:
    """How to use the networks, with the names of some that there are."""
    by_top1 = sorted(cards, key=lambda card: -card["accuracy"]["by_members"][-1]["top1"])
    backbone = next(filter(has_single, by_top1), None)
    ensemble = next((card for card in by_top1 if card["members"] > 1), None)
    name = (ensemble or backbone or {})["name"]
    python = [
        "# uint8 pixels; needs no TensorFlow",
        f'probabilities = EnsembleInterpreter("{name}").predict(images)',
    ]
    imported = ["EnsembleInterpreter"]
    if backbone is not None:
        arguments = f'"{backbone["model"]["name"]}", weights="{backbone["name"]}"'
        python.append(f"backbone = build_model({arguments})  # a Keras model")
        imported.append("build_model")
    if ensemble is not None:
        python.append(f'ensemble = load_ensemble("{name}")  # an `Ensemble`, compiled')
        imported.append("load_ensemble")
    return "\n".join(
        [
            f"    larq-ensemble predict {name} photo.png --top 3",
            f"    larq-ensemble pretrained {name} --out {name}.tflite",
            "",
            "```python",
            f"from larq_ensemble import {', '.join(imported)}",
            "",
            *python,
            "```",
        ]
    )


if __name__ == "__main__":
    run_command(main)
