"""What ensemble files cost on arm64, counted in instructions, by back end and core.

    python benchmarks/arm_cost.py --cpu cortex-a72 --cpu cortex-a76 ensemble.tflite

counts LiteRT, with this project's delegate and with builtin operators, on emulated cores
(`tools/arm/count.py`, which needs QEMU; `make test-arm` installs the wheel whose delegate is
counted). Instructions are not times, but they are the same on every machine, and so are ratios.

Larq Compute Engine (LCE) has no wheel for Linux on aarch64. To count its arm64 kernels give
`--counter`, a program that is called as

    COUNTER MODEL.tflite --kernel default|indirect [--xnnpack]

runs one inference of MODEL's first subgraph with these kernels, on one thread, with integer inputs
of zero (so of member 0), and prints a JSON object with the number of `instructions`; for example
LCE's macOS-arm64 library in an emulator with an instruction-counting plugin.

The shared trunk counts once per image if the file has a graph of it
(`larq_ensemble.convert.passes.shared_trunk`); "a member" is what each member takes after the trunk.
The counter gets each graph as a file.

The reference, with `--counter` and `--run`, is what LCE makes of one member of the run as a plain
Keras model: M members shipped as M such files cost M times that. All members run the same operators
on the same shapes, so one of them is counted. Images come normalized to the reference, raw to the
ensemble files, whose normalization is part of their count. Ratios of LCE's kernels are to the same
kernel, those of LiteRT to the better one.

`--record` writes the counts into the metadata of the files, and the page of `larq-ensemble web`
draws them.

The JSON also has points for `larq-ensemble frontier`, of files that `larq-ensemble calibrate` wrote
their accuracy into: for each number of members, on each core, with the kernel that takes least.

    larq-ensemble convert runs/fusion --out ensemble.tflite
    python benchmarks/arm_cost.py --counter COUNTER --run runs/fusion ensemble.tflite
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from larq_ensemble.cli import run_command
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.convert.cutting import cut
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import write_bytes
from larq_ensemble.runtime import backends
from larq_ensemble.runtime.file import (
    EnsembleFile,
    Subgraph,
    read_ensemble,
    with_metadata,
    with_one_subgraph,
)

#: LCE's, its default first.
KERNELS = ("default", "indirect")
#: Headings of the table, and what is below them.
COLUMNS = (
    ("file", "file"),
    ("bytes", "bytes"),
    ("layout", "layout"),
    ("heads", "heads"),
    ("vectors", "precision"),
    ("back end", "backend"),
    ("kernel", "kernel"),
    ("core", "cpu"),
    ("XNNPACK", "xnnpack"),
    ("M", "members"),
    ("once per image", "instructions_once"),
    ("a member", "instructions_member"),
    ("M members", "instructions_ensemble"),
    ("ratio", "ratio"),
)
COUNT = Path(__file__).parents[1] / "tools" / "arm" / "count.py"
#: The delegate that it takes by default, of the wheel that `make test-arm` installs.
WHEELS_DELEGATE = (
    Path(__file__).parents[1] / ".arm/project/larq_ensemble/runtime/liblarq_ensemble_delegate.so"
)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="F.tflite...")
@click.option("--cpu", "cores", multiple=True, metavar="CORE", help="Of LiteRT; repeatable.")
@click.option("--counter", metavar="PATH", help="The program that counts LCE's kernels.")
@click.option("--run", metavar="RUN", help="The run whose member is the reference.")
@click.option("--xnnpack", is_flag=True, help="Hand float operators of LCE to XNNPACK.")
@click.option("--delegate", metavar="LIBRARY", help="For aarch64  [default: the wheel's]")
@click.option("--record", is_flag=True, help="Write the counts into the files' metadata.")
@json_option
def main(
    files: tuple[str, ...],
    cores: tuple[str, ...],
    counter: str | None,
    run: str | None,
    xnnpack: bool,
    delegate: str | None,
    record: bool,
    json_target: str | None,
) -> None:
    """Count the arm64 instructions of ensemble files, of a member and of all for an image."""
    if not cores and counter is None:
        raise click.UsageError("Give --cpu to count LiteRT, --counter to count LCE, or both.")
    if (run is None) != (counter is None):
        raise click.UsageError("--run and --counter belong together: LCE's count is the reference.")
    with reporting(json_target) as report:
        ensembles = {file: read_ensemble(file) for file in files}
        single: dict[str, int] = {}
        if counter is not None and run is not None:
            single = reference(counter, run, xnnpack)
            counts = ", ".join(f"{count:,} ({kernel} kernel)" for kernel, count in single.items())
            report.line(f"one member by itself: {counts}")
        rows = []
        for file, ensemble in ensembles.items():
            found = []
            if counter is not None:
                found += lce_rows(counter, ensemble, xnnpack)
            for core in cores:
                found += [
                    litert_row(file, core, kernel, delegate)
                    for kernel in backends.KERNELS["litert"]
                ]
            for row in found:
                rows.append(described(file, ensemble, row, single))
                report.line(_progress(rows[-1]))
            if record:
                write_counts(file, ensemble, found)
        report.result = {"single": single, "files": rows, **points(ensembles, rows)}
        report.table(
            "arm64 instructions; ratio to M separately converted members with LCE",
            [heading for heading, _ in COLUMNS],
            [[_cell(row[key]) for _, key in COLUMNS] for row in rows],
        )


def points(ensembles: Mapping[str, EnsembleFile], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What `larq_ensemble.training.points` reads; empty if accuracies are of several data sets.

    # Arguments
        ensembles: the files.
        rows: as `described` gives them.
    """
    measured = {
        file: ensemble
        for file, ensemble in ensembles.items()
        if ensemble.metadata.top1 is not None and ensemble.metadata.dataset is not None
    }
    datasets = {ensemble.metadata.dataset for ensemble in measured.values()}
    if len(datasets) != 1:
        return {}
    found = [
        point
        for file, ensemble in measured.items()
        for point in _points(file, ensemble, [row for row in rows if row["file"] == file])
    ]
    return {"dataset": datasets.pop(), "split": "validation", "points": found}


def _points(
    file: str, ensemble: EnsembleFile, rows: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    metadata = ensemble.metadata
    for m, top1 in enumerate(metadata.top1 or (), start=1):
        counts: dict[str, int] = {}
        for row in rows:
            if (core := row["cpu"]) is not None:
                count = row["instructions_once"] + m * row["instructions_member"]
                counts[core] = min(count, counts.get(core, count))
        yield {
            "name": Path(file).stem,
            "kind": metadata.quantization or ("shared" if metadata.members > 1 else "single"),
            "members": m,
            "trained_members": metadata.members,
            "top1": top1,
            "bytes": len(cut(ensemble.data, metadata.first(m))),
            "instructions": counts,
        }


def write_counts(file: str, ensemble: EnsembleFile, rows: list[dict[str, Any]]) -> None:
    """Writes counts into the metadata of a file, where `larq-ensemble web` finds them."""
    counts = {
        f"{row['cpu'] or 'arm64'}, {row['backend']} {row['kernel']}": {
            "image": row["instructions_once"],
            "member": row["instructions_member"],
        }
        for row in rows
    }
    known = ensemble.metadata.instructions
    metadata = dataclasses.replace(ensemble.metadata, instructions={**known, **counts})
    write_bytes(file, with_metadata(ensemble.data, metadata))


def _cell(value: Any) -> Any:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else value


def _progress(row: dict[str, Any]) -> str:
    core = "" if row["cpu"] is None else f" on {row['cpu']}"
    ratio = "" if row["ratio"] is None else f", {row['ratio']:.4f}"
    return f"{row['file']}, {row['kernel']} kernel{core}: {row['instructions_ensemble']:,}{ratio}"


def described(
    file: str, ensemble: EnsembleFile, row: dict[str, Any], single: dict[str, int]
) -> dict[str, Any]:
    """A row of the table: what was counted, of which file, to what it compares.

    # Arguments
        file, ensemble: the file.
        row: the back end, and what it takes once an image and for a member.
        single: instructions of a member by itself, by LCE's kernel; empty if not known.
    """
    metadata = ensemble.metadata
    whole = row["instructions_once"] + metadata.members * row["instructions_member"]
    reference = single.get(row["kernel"], min(single.values(), default=None))
    return {
        "file": file,
        "bytes": len(ensemble.data),
        "layout": metadata.layout,
        "heads": metadata.heads,
        "precision": metadata.precision,
        "members": metadata.members,
        **row,
        "instructions_ensemble": whole,
        "ratio": None if reference is None else whole / (metadata.members * reference),
    }


def lce_rows(counter: str, ensemble: EnsembleFile, xnnpack: bool) -> list[dict[str, Any]]:
    """What both of LCE's kernels take."""
    return [lce_row(counter, ensemble, kernel, xnnpack) for kernel in KERNELS]


def lce_row(counter: str, ensemble: EnsembleFile, kernel: str, xnnpack: bool) -> dict[str, Any]:
    """What one of LCE's kernels takes, whatever the core."""
    once, member = counted(counter, ensemble, kernel, xnnpack)
    row = {"backend": "lce", "kernel": kernel, "cpu": None, "xnnpack": xnnpack}
    return row | {"instructions_once": once, "instructions_member": member}


def litert_row(file: str, core: str, kernel: str, delegate: str | None) -> dict[str, Any]:
    """What LiteRT takes on an emulated core.

    # Raises
        EnsembleError: if it can't be counted; says what is missing.
    """
    command = [sys.executable, str(COUNT), file, "--cpu", core, "--kernel", kernel]
    if delegate is not None:
        command += ["--delegate", delegate]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnsembleError((done.stderr.strip().splitlines() or [f"{COUNT} failed"])[-1])
    result = json.loads(done.stdout)
    row = {"backend": "litert", "kernel": kernel, "cpu": core, "xnnpack": True}
    return row | {key: result[key] for key in ("instructions_once", "instructions_member")}


def reference(counter: str, run: str, xnnpack: bool) -> dict[str, int]:
    """What one member of a run takes, converted by itself, by LCE's kernel."""
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder, "single.tflite")
        reference.write_bytes(_single(run))
        return {kernel: instructions(counter, reference, kernel, xnnpack) for kernel in KERNELS}


def _single(run: str) -> bytes:
    from larq_ensemble.runs import load_run

    loaded = load_run(run)
    from larq_ensemble.convert.conversion import trained_ensemble
    from larq_ensemble.convert.frontend.single import convert_single

    return convert_single(trained_ensemble(loaded).member(0))


def counted(
    counter: str, ensemble: EnsembleFile, kernel: str, xnnpack: bool = False
) -> tuple[int, int]:
    """Instructions once per image for all members, and of one member.

    In the layout `branches`, which runs all members at once, all instructions are of the first
    kind.
    """
    with tempfile.TemporaryDirectory() as folder:

        def of(graph: Subgraph) -> int:
            path = Path(folder, "graph.tflite")
            path.write_bytes(with_one_subgraph(ensemble.data, graph.index))
            return instructions(counter, path, kernel, xnnpack)

        member = of(ensemble.member_graphs[0])
        if ensemble.metadata.layout == "branches":
            return member, 0
        return 0 if ensemble.trunk is None else of(ensemble.trunk), member


def instructions(counter: str, model: Path, kernel: str, xnnpack: bool = False) -> int:
    """Runs the counter.

    # Raises
        EnsembleError: if it can't be run, fails, or doesn't print what it should.
    """
    command = [counter, str(model), "--kernel", kernel, *(["--xnnpack"] if xnnpack else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(json.loads(done.stdout)["instructions"])
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise EnsembleError(f"{counter} failed on {str(model)!r}: {reason}") from error
    except OSError as error:
        raise EnsembleError(f"--counter {counter!r} can't be run: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise EnsembleError(
            f"{counter} printed no JSON object with a number of `instructions`."
        ) from error


if __name__ == "__main__":
    run_command(main)
