"""What ensemble files cost on arm64, counted in instructions, against the members by themselves.

Needs a counter: a program that is called as

    COUNTER MODEL.tflite --kernel default|indirect [--xnnpack]

runs one inference of MODEL's first subgraph with Larq Compute Engine's arm64 kernels, on one
thread, with integer inputs of zero (so of member 0), and prints a JSON object with the number of
`instructions`; for example LCE's macOS-arm64 library in an emulator with an instruction-counting
plugin. Instructions are not times, but they are the same on every machine, and so are ratios.

The shared trunk counts once per image if the file has a graph of it
(`larq_ensemble.convert.passes.shared_trunk`); "a member" is what each member takes after the trunk.
The counter gets each graph as a file.

The reference is what LCE makes of one member of the run as a plain Keras model: M members shipped
as M such files cost M times that. All members run the same operators on the same shapes, so one of
them is counted. Images come normalized to the reference, raw to the ensemble files, whose
normalization is part of their count.

    larq-ensemble convert runs/fusion --out ensemble.tflite
    python benchmarks/arm_cost.py --counter COUNTER --run runs/fusion ensemble.tflite
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import json
import subprocess
import tempfile
from pathlib import Path

import click

from larq_ensemble.cli import run_command
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.file import EnsembleFile, Subgraph, read_ensemble, with_one_subgraph

KERNELS = ("default", "indirect")


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="F.tflite...")
@click.option("--counter", required=True, metavar="PATH", help="The program that counts.")
@click.option("--run", required=True, metavar="RUN", help="The run whose member is the reference.")
@click.option("--xnnpack", is_flag=True, help="Hand float operators to XNNPACK, in all files.")
@json_option
def main(
    files: tuple[str, ...], counter: str, run: str, xnnpack: bool, json_target: str | None
) -> None:
    """Count the arm64 instructions of ensemble files, of a member and of all for an image."""
    with reporting(json_target) as report:
        ensembles = {file: read_ensemble(file) for file in files}
        with tempfile.TemporaryDirectory() as folder:
            reference = Path(folder, "single.tflite")
            reference.write_bytes(_single(run))
            single = {
                kernel: instructions(counter, reference, kernel, xnnpack) for kernel in KERNELS
            }
        report.line(
            "one member by itself: "
            + ", ".join(f"{count:,} ({kernel} kernel)" for kernel, count in single.items())
        )
        rows = []
        for file, ensemble in ensembles.items():
            metadata = ensemble.metadata
            for kernel in KERNELS:
                image, member = counted(counter, ensemble, kernel, xnnpack)
                whole = image + metadata.members * member
                rows.append(
                    {
                        "file": file,
                        "layout": metadata.layout,
                        "heads": metadata.heads,
                        "precision": metadata.precision,
                        "kernel": kernel,
                        "xnnpack": xnnpack,
                        "members": metadata.members,
                        "instructions_once": image,
                        "instructions_member": member,
                        "instructions_ensemble": whole,
                        "ratio": whole / (metadata.members * single[kernel]),
                    }
                )
                report.line(f"{file}, {kernel} kernel: {rows[-1]['ratio']:.4f}")
        report.result = {"single": single, "files": rows}
        report.table(
            "arm64 instructions; ratio to M separately converted members, same kernel",
            [
                *("file", "layout", "heads", "vectors", "kernel", "XNNPACK", "M"),
                *("once per image", "a member", "M members", "ratio"),
            ],
            [[*(row | {"ratio": f"{row['ratio']:.4f}"}).values()] for row in rows],
        )


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
