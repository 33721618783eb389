"""How many instructions a file takes on an emulated ARM core, with LiteRT.

    python tools/arm/count.py ensemble.tflite --cpu cortex-a72 --kernel delegate

prints a JSON object: what runs once an image (the shared trunk), for each member after it, and for
all members; or, with `--signature rest`, what runs in this graph of the file. The number is the
same on every machine, up to some 0.1 %, so ratios hold. It is no time: caches, and how many
instructions a core runs at once, are not in it.

`--kernel delegate` runs the binary convolutions with this project's delegate, `builtin` with
LiteRT's own operators. One thread. The third run of each graph counts, without what Python does
around it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import userland

from larq_ensemble.convert import emulation
from larq_ensemble.errors import EnsembleError, UnknownNameError
from larq_ensemble.legalization import FILTERS, legalized
from larq_ensemble.runtime.backends import KERNELS
from larq_ensemble.runtime.file import read_ensemble, with_one_subgraph
from larq_ensemble.tflite.reader import read_model

FOLDER = Path(__file__).parent
DELEGATE = "larq_ensemble/runtime/liblarq_ensemble_delegate.so"


def count(
    path: str | os.PathLike[str],
    cpu: str,
    kernel: str,
    *,
    filters: str = "int8",
    delegate: Path | None = None,
    signature: str | None = None,
) -> dict[str, Any]:
    """Counts the instructions of an ensemble file.

    # Arguments
        path: the file.
        cpu: one of `userland.CORES`.
        kernel: one of LiteRT's, `larq_ensemble.runtime.backends.KERNELS`.
        filters: what `"builtin"` makes of the binary filters of a file for LCE.
        delegate: the library of `"delegate"`, for aarch64; by default that of the wheel in the
            userland.
        signature: counts this graph of the file alone.

    # Returns
        The arguments, and `instructions_once`, `instructions_member`, `instructions_ensemble`. In
        the layout `"branches"`, which runs all members at once, all of them count once. With a
        signature only `instructions`.

    # Raises
        EnsembleError: if it is no ensemble, or can't be run.
        UserlandError: if the emulation can't be had.
    """
    file = read_ensemble(path)
    library = (delegate or _library()) if kernel == "delegate" else None

    def counted(*graphs: int) -> list[int]:
        models = [with_one_subgraph(file.data, graph) for graph in graphs]
        if kernel == "builtin":
            models = [legalized(model, filters=filters) for model in models]
        return instructions(models, cpu, library)

    row = {"file": os.fspath(path), "bytes": len(file.data), "cpu": cpu, "kernel": kernel}
    if signature is not None:
        (found,) = counted(_graph_of(file.data, signature))
        return row | {"signature": signature, "instructions": found}
    trunk = [] if file.trunk is None else [file.trunk.index]
    member, *of_trunk = counted(file.member_graphs[0].index, *trunk)
    once, members = sum(of_trunk), file.metadata.members
    if file.metadata.layout == "branches":
        once, member = member, 0
    return row | {
        "members": members,
        "instructions_once": once,
        "instructions_member": member,
        "instructions_ensemble": once + members * member,
    }


def _graph_of(data: bytes, signature: str) -> int:
    """The number of the graph that has a signature."""
    graphs = read_model(data).graphs
    keys = [graph.signature.key if graph.signature else "" for graph in graphs]
    if signature not in keys:
        raise UnknownNameError("signature", signature, keys)
    return keys.index(signature)


def instructions(models: Sequence[bytes], cpu: str, delegate: Path | None) -> list[int]:
    """The instructions of one run of each model's first graph.

    # Raises
        UserlandError: if the emulation can't be had, or LiteRT refuses a model.
    """
    userland.build()
    plugin = userland.made("counter", _plugin_sources(), _build_plugin) / "counter.so"
    with tempfile.TemporaryDirectory() as folder:
        counts, paths = Path(folder, "counts"), []
        for number, model in enumerate(models):
            path = Path(folder, f"{number}.tflite")
            path.write_bytes(model)
            paths.append(path)
        command: list[str | Path] = [userland.python(cpu), FOLDER / "run_graphs.py", *paths]
        if delegate is not None:
            command += ["--delegate", delegate]
        userland.call(command, env={**os.environ, "QEMU_PLUGIN": f"file={plugin},out={counts}"})
        nothing, *runs = [int(line) for line in counts.read_text().split()][2::3]
    return [run - nothing for run in runs]


def _library() -> Path:
    path = userland.ARM / "project" / DELEGATE
    if not path.exists():
        raise userland.UserlandError(
            "The userland has no delegate: `make test-arm` builds the project's wheel for aarch64 "
            "and installs it there; or name a library by --delegate."
        )
    return path


def _plugin_sources() -> str:
    version = emulation.plugin_interface(userland.QEMU)
    return f"{version}{(emulation.SOURCES / 'instructions.c').read_text()}"


def _build_plugin(folder: Path) -> None:
    emulation.build_counter(folder, userland.QEMU)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", metavar="F.tflite", help="an ensemble")
    parser.add_argument("--cpu", choices=userland.CORES, default="cortex-a72")
    parser.add_argument("--kernel", choices=KERNELS["litert"], default="delegate")
    parser.add_argument(
        "--filters", choices=FILTERS, default="int8", help="of the kernel builtin (default: int8)"
    )
    parser.add_argument("--delegate", type=Path, metavar="LIBRARY", help="another one, for aarch64")
    parser.add_argument("--signature", metavar="KEY", help="count this graph alone")
    arguments = parser.parse_args()
    try:
        result = count(
            arguments.file,
            arguments.cpu,
            arguments.kernel,
            filters=arguments.filters,
            delegate=arguments.delegate,
            signature=arguments.signature,
        )
    except (EnsembleError, userland.UserlandError) as error:
        sys.exit(str(error))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
