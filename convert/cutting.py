"""The first members of a converted file as a file of their own, without TensorFlow."""

from __future__ import annotations

import os
import time

from larq_ensemble.convert.passes import equal_rows
from larq_ensemble.convert.passes.shared_trunk import drop_parts
from larq_ensemble.convert.pipeline import run_after_cutting
from larq_ensemble.convert.report import ConversionReport, write_file
from larq_ensemble.convert.targets.lce import write_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import check_output
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.ir.graph import Module
from larq_ensemble.runtime.file import read_ensemble
from larq_ensemble.runtime.metadata import EnsembleMetadata


def cut_file(
    tflite: str | os.PathLike[str], path: str | os.PathLike[str], members: int
) -> ConversionReport:
    """Writes a file that holds only the first members of another.

    The members that stay compute the same bits as before.

    # Arguments
        tflite: a file that `convert` wrote.
        path: where to write; an existing file is replaced only on success.
        members: how many members stay, from 1 to all.

    # Raises
        EnsembleError: if `tflite` can't be read, `members` is out of range, or `path` can't be
            written.
    """
    start = time.perf_counter()
    check_output(path)
    file = read_ensemble(tflite)
    metadata = file.metadata.first(members)
    return write_file(cut(file.data, metadata), metadata, path, start)


def cut(data: bytes, metadata: EnsembleMetadata) -> bytes:
    """The bytes of a file with its first members only.

    # Arguments
        data: a whole file.
        metadata: the file's metadata after `EnsembleMetadata.first`.
    """
    module = read(data)
    module.members, module.layout = metadata.members, metadata.layout
    had_trunk = drop_parts(module)
    _CUTS[metadata.layout](module)
    run_after_cutting(module, with_trunk=had_trunk)
    return write_ensemble(module, metadata)


def _cut_tables(module: Module) -> None:
    """Keeps the first rows of the tables that GATHER reads by the member's number.

    Members that shared a row get their own first, and share it again if that still saves bytes.
    """
    graph = module.graph
    shared_rows = equal_rows.restore(module)
    number = graph.input("member")
    assert number is not None  # `read_ensemble` has seen it
    numbers = {number}  # and what is computed of it alone
    for op in graph.operators:
        if op.name != "GATHER":
            if not numbers.isdisjoint(op.operands):
                numbers.update(op.outputs)
        elif op.operands[1] in numbers:
            table = op.operands[0]
            if table.data is None:
                raise EnsembleError(
                    "The file computes a table of the members' values: convert it again with "
                    "fewer `members`."
                )
            table.set_values(table.values[: module.members])
    if shared_rows:
        equal_rows.run(module)


def _cut_subgraphs(module: Module) -> None:
    del module.graphs[module.members :]


def _cut_branches(module: Module) -> None:
    graph = module.graph
    assert graph.signature is not None  # `read_ensemble` has seen it
    outputs = graph.signature.outputs
    kept = [f"logits_{member}" for member in range(module.members)]
    graph.signature.outputs = {name: tensor for name, tensor in outputs.items() if name in kept}
    graph.outputs = list(graph.signature.outputs.values())
    graph.eliminate_dead_code()


_CUTS = {"indexed": _cut_tables, "subgraphs": _cut_subgraphs, "branches": _cut_branches}
