"""What exported ensembles take on microcontrollers, and int8 networks on the same emulated chips.

    larq-ensemble convert runs/resnet20 --out resnet20.tflite --heads int8 --precision compact
    larq-ensemble convert runs/resnet20-relu --quantize int8 --out resnet20-relu-int8.tflite
    git clone https://github.com/ARM-software/CMSIS-NN
    python benchmarks/microcontrollers.py count resnet20.tflite \\
        --int8 resnet20-relu-int8.tflite --cmsis-nn CMSIS-NN --json microcontrollers.json
    python benchmarks/microcontrollers.py page microcontrollers.json \\
        --write docs/microcontrollers.md --readme README.md

`count` exports each file (`larq-ensemble export`) with M = 1, 4, 10 members and float maps of 32
and of 16 bits, and counts flash, RAM and the instructions of an image on emulated boards. A file's
name is the network's in the tables; files of one network in several formats are named
NETWORK-anything.tflite.

An int8 network becomes a program of calls of CMSIS-NN (`cmsis_nn.py`). Its logits are compared with
those of LiteRT's reference kernels, so what is counted computes what the file says.

Costs don't depend on training: untrained networks (`--epochs 0`) have the same.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from cmsis_nn import FLAGS, Kernels, commit, program
from page import made_by, write_between, write_option

from larq_ensemble.cli import run_command
from larq_ensemble.console.markdown import markdown_table
from larq_ensemble.console.options import INPUT, TFLITE, CommaSeparated
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.convert import emulation
from larq_ensemble.convert.export import export_file
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import read_json
from larq_ensemble.runtime.file import read_bytes, read_ensemble

ACTIVATIONS = ("float32", "float16")
#: Images on which an int8 program is compared with LiteRT.
_COMPARED = 8
#: Share of logits that may be one step off: LiteRT rounds the mean before the linear layer twice.
_OTHER = 0.05
#: The generated part of the page is between these two lines.
BEGIN = "<!-- microcontrollers: by benchmarks/microcontrollers.py -->"
END = "<!-- end of microcontrollers -->"


def ensemble_rows(
    path: str, members: Sequence[int], cpus: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """What a file takes, by number of members and format of maps.

    # Arguments
        path: of a file for LCE.
        members: numbers of members; those that the file doesn't have are left out.
        cpus: keys of `larq_ensemble.convert.emulation.BOARDS`.
    """
    metadata = read_ensemble(path).metadata
    for m in members:
        for activations in ACTIVATIONS if m <= metadata.members else ():
            with tempfile.TemporaryDirectory() as folder:
                report = export_file(path, folder, members=m, activations=activations, cpus=cpus)
            yield {
                "network": _network(path),
                "heads": metadata.heads,
                "precision": metadata.precision,
                "members": m,
                "activations": activations,
                "flash": dict(report.flash),
                "bytes": report.bytes,
                "arena_bytes": report.arena_bytes,
                "costs": {cpu: asdict(cost) for cpu, cost in report.costs.items()},
            }


def int8_row(path: str, kernels: Kernels, cpus: Sequence[str]) -> dict[str, Any]:
    """What an int8 network takes.

    # Raises
        EnsembleError: if it can't be written for CMSIS-NN, or computes something else than LiteRT.
    """
    data = read_bytes(path)
    network = program(data)
    shape = read_ensemble(path).metadata.input_shape
    images = np.random.default_rng(0).integers(0, 256, (_COMPARED, *shape), np.uint8)
    expected = reference_logits(data, images)
    costs = {}
    for cpu in cpus:
        cost = asdict(kernels.count(network, images, cpu))
        steps = np.round(np.abs(cost.pop("logits") - expected) / network.step)
        if steps.max() > 1 or steps.mean() > _OTHER:
            raise EnsembleError(
                f"{path!r} on {cpu}: logits deviate by up to {steps.max():g} steps from LiteRT's."
            )
        costs[cpu] = cost
    return {
        "network": Path(path).stem,
        "file_bytes": len(data),
        "bytes": network.constant_bytes,
        "costs": costs,
    }


def reference_logits(data: bytes, images: np.ndarray) -> np.ndarray:
    """Logits by LiteRT's reference kernels, which CMSIS-NN equals, float32 `[n, classes]`."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=data, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    interpreter.allocate_tensors()
    (image,), (logits,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for pixels in images:
        interpreter.set_tensor(image["index"], pixels[np.newaxis].astype(image["dtype"]))
        interpreter.invoke()
        found.append(interpreter.get_tensor(logits["index"])[0].copy())
    return np.stack(found)


def tables(result: Mapping[str, Any]) -> str:
    """The part of the page.

    # Arguments
        result: of `count`.
    """
    ensembles, int8, cpus = result["ensembles"], result["int8"], result["cpus"]
    parts = [
        "Flash is constants and code, RAM the arena and the stack, both in bytes, on a "
        f"{_title(cpus[0])}:",
        markdown_table(
            ["network", "heads", "vectors", "M", "flash", "RAM", "RAM, float16 maps"],
            [
                [row["network"], row["heads"], row["precision"], row["members"],
                 f"{_flash(row, cpus[0]):,}", f"{_ram(row, cpus[0]):,}",
                 f"{_ram(half, cpus[0]):,}"]
                for row, half in _pairs(ensembles)
            ],
        ),
        "Millions of instructions, of the smallest format:",
        markdown_table(
            ["network", "maps", "processor", "once an image", "a member", *_headings(ensembles)],
            [_instructions(rows, cpu) for rows in _smallest(ensembles) for cpu in cpus],
        ),
    ]  # fmt: skip
    if int8:
        parts += [
            "int8 networks by CMSIS-NN, with the same compiler: flash and RAM, counted alike, on a "
            f"{_title(cpus[0])}, and millions of instructions an image:",
            markdown_table(
                ["network", "flash", "RAM", *map(_title, cpus)],
                [
                    [row["network"],
                     f"{row['bytes'] + row['costs'][cpus[0]]['code_bytes']:,}",
                     f"{_int8_ram(row['costs'][cpus[0]]):,}",
                     *(_millions(row["costs"][cpu]["instructions"]) for cpu in cpus)]
                    for row in int8
                ],
            ),
            f"(CMSIS-NN {result['cmsis_nn']}, `{' '.join(FLAGS)}`; ensembles "
            f"`{' '.join(emulation.FLAGS)}`.)",
        ]  # fmt: skip
    return "\n\n".join(parts)


def short_table(result: Mapping[str, Any]) -> str:
    """The table of the README: each network in its smallest format, on the first processor.

    # Arguments
        result: of `count`.
    """
    cpu = result["cpus"][0]
    smallest = [row for rows in _smallest(result["ensembles"]) for row in rows]
    return markdown_table(
        ["network", "M", "flash, bytes", "RAM, bytes", "with float16 maps",
         f"million instructions on a {_title(cpu)}"],
        [
            [row["network"], row["members"], f"{_flash(row, cpu):,}", f"{_ram(row, cpu):,}",
             f"{_ram(half, cpu):,}", _millions(_of_image(row, cpu))]
            for row, half in _pairs(smallest)
        ],
    )  # fmt: skip


def _network(path: str) -> str:
    return Path(path).stem.partition("-")[0]


def _title(cpu: str) -> str:
    return cpu.replace("cortex-m", "Cortex-M")


def _millions(count: float) -> str:
    return f"{count / 1e6:.1f}"


def _flash(row: Mapping[str, Any], cpu: str) -> int:
    return row["bytes"] + row["costs"][cpu]["code_bytes"]


def _ram(row: Mapping[str, Any], cpu: str) -> int:
    return row["arena_bytes"] + row["costs"][cpu]["stack_bytes"]


def _int8_ram(cost: Mapping[str, Any]) -> int:
    return cost["ram_bytes"] + cost["stack_bytes"]


def _pairs(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each row with float32 maps, and the one with float16."""
    for row in rows:
        if row["activations"] == "float32":
            same = {key: row[key] for key in ("network", "heads", "precision", "members")}
            (half,) = (
                other
                for other in rows
                if other["activations"] == "float16" and same.items() <= other.items()
            )
            yield row, half


def _headings(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [f"M = {m}" for m in sorted({row["members"] for row in rows})]


def _smallest(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The rows of each network and format of maps, by M, in the format with the least flash."""
    for network in dict.fromkeys(row["network"] for row in rows):
        of_network = [row for row in rows if row["network"] == network]
        most = max(row["members"] for row in of_network)
        best = min(
            (row for row in of_network if row["members"] == most), key=lambda row: row["bytes"]
        )
        for activations in ACTIVATIONS:
            same = {key: best[key] for key in ("heads", "precision")}
            yield [
                row
                for row in of_network
                if row["activations"] == activations and same.items() <= row.items()
            ]


def _instructions(rows: Sequence[dict[str, Any]], cpu: str) -> list[str]:
    last = rows[-1]["costs"][cpu]
    return [
        rows[0]["network"], rows[0]["activations"], _title(cpu), _millions(last["image"]),
        _millions(last["member"]), *(_millions(_of_image(row, cpu)) for row in rows),
    ]  # fmt: skip


def _of_image(row: Mapping[str, Any], cpu: str) -> int:
    """Instructions of an image by all members."""
    cost = row["costs"][cpu]
    return cost["image"] + row["members"] * cost["member"]


@click.group()
def main() -> None:
    """Count what ensembles and int8 networks take on emulated microcontrollers."""


@main.command("count")
@click.argument("files", nargs=-1, required=True, type=TFLITE, metavar="F.tflite...")
@click.option(
    "--int8", "int8_files", multiple=True, type=INPUT, metavar="I.tflite", help="Repeatable."
)
@click.option("--cmsis-nn", "clone", type=INPUT, metavar="DIR", help="A clone, for --int8.")
@click.option(
    "--members",
    type=CommaSeparated("m,...", click.IntRange(1), "whole numbers such as 1,4,10", dict.fromkeys),
    default="1,4,10",
    show_default=True,
    help="Numbers of members.",
)
@click.option(
    "--cpu",
    "cpus",
    type=CommaSeparated(
        "CPU,...", click.Choice(list(emulation.BOARDS)), "processors", dict.fromkeys
    ),
    default="cortex-m4,cortex-m7,cortex-m33",
    show_default=True,
    help="Processors.",
)
@json_option
def count(
    files: tuple[str, ...],
    int8_files: tuple[str, ...],
    clone: str | None,
    members: Sequence[int],
    cpus: Sequence[str],
    json_target: str | None,
) -> None:
    """Count flash, RAM and instructions on emulated boards."""
    if int8_files and clone is None:
        raise click.UsageError("--int8 needs --cmsis-nn: the folder of a clone of CMSIS-NN.")
    members, cpus = [*members], [*cpus]
    with reporting(json_target) as report, tempfile.TemporaryDirectory() as folder:
        emulation.check_tools()
        ensembles: list[dict[str, Any]] = []
        int8 = []
        for file in files:
            report.line(file)
            ensembles += ensemble_rows(file, members, cpus)
        if clone is not None:
            kernels = Kernels(Path(clone), Path(folder))
            for file in int8_files:
                report.line(file)
                int8.append(int8_row(file, kernels, cpus))
        report.result = {
            "ensembles": ensembles,
            "int8": int8,
            "cpus": cpus,
            "cmsis_nn": None if clone is None else commit(Path(clone)),
            "made_by": made_by("benchmarks/microcontrollers.py"),
        }
        for line in tables(report.result).splitlines():
            report.line(line)


@main.command("page")
@click.argument("result", type=INPUT, metavar="RESULT.json")
@write_option
@click.option(
    "--readme", type=click.Path(path_type=Path, exists=True), help="A page for the short table."
)
def page_command(result: str, page: Path | None, readme: Path | None) -> None:
    """Print the tables of a result."""
    counted = read_json(result, "write it with `count --json`")
    text = f"{tables(counted)}\n\n{counted['made_by']}"
    if readme is not None:
        write_between(readme, BEGIN, END, short_table(counted))
    if page is None:
        click.echo(text)
    else:
        write_between(page, BEGIN, END, text)


if __name__ == "__main__":
    run_command(main)
