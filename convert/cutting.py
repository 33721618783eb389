"""The first members of a converted file as a file of their own, without TensorFlow."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from larq_ensemble.convert.flatbuffer import (
    add_buffer,
    content,
    operator_names,
    read_model,
    write_model,
)
from larq_ensemble.convert.packing import drop_unread, share
from larq_ensemble.convert.prefix import add_prefix, drop_prefix
from larq_ensemble.convert.report import ConversionReport, check_target, write_file
from larq_ensemble.runtime.file import read_ensemble, seal
from larq_ensemble.runtime.metadata import ENTRY, EnsembleMetadata


def cut_file(
    tflite: str | os.PathLike[str], path: str | os.PathLike[str], members: int
) -> ConversionReport:
    """Writes a file that holds only the first members of another.

    Each member that stays computes the same bits as before.

    # Arguments
        tflite: a file that `convert` wrote.
        path: where to write; a file that is there is replaced only when all went well.
        members: how many members stay, from 1 to all.

    # Raises
        EnsembleError: if `tflite` can't be read, `members` is out of range, or `path` can't be
            written.
    """
    start = time.perf_counter()
    check_target(path)
    file = read_ensemble(tflite)
    metadata = file.metadata.first(members)
    return write_file(cut(file.data, metadata), metadata, path, start)


def cut(data: bytes, metadata: EnsembleMetadata) -> bytes:
    """The bytes of a file with its first members only.

    # Arguments
        data: a whole file.
        metadata: what `EnsembleMetadata.first` gives of the file's.
    """
    model = read_model(data)
    had_prefix = drop_prefix(model)
    _CUTS[metadata.layout](model, metadata.members)
    if had_prefix:
        add_prefix(model, metadata.members)
    (entry,) = (entry for entry in model.metadata if entry.name == ENTRY.encode())
    entry.buffer = add_buffer(model, np.frombuffer(metadata.to_json(), np.uint8))
    share(model)
    return seal(write_model(model))


def _cut_tables(model: Any, members: int) -> None:
    """Keeps the first rows of the tables that GATHER reads by the member's number."""
    (graph,), (signature,) = model.subgraphs, model.signatureDefs
    names = operator_names(model)
    numbers = {entry.tensorIndex for entry in signature.inputs if entry.name == b"member"}
    for op in graph.operators:
        if numbers.isdisjoint(op.inputs.tolist()):
            continue
        if names[op.opcodeIndex] != "GATHER":
            numbers.update(op.outputs.tolist())
            continue
        table = graph.tensors[int(op.inputs[0])]
        rows = content(model, table)
        assert rows is not None  # what is looked up by the member's number is constant
        table.buffer = add_buffer(model, rows[:members])
        table.shape = np.array([members, *rows.shape[1:]], np.int32)


def _cut_subgraphs(model: Any, members: int) -> None:
    del model.subgraphs[members:], model.signatureDefs[members:]


def _cut_branches(model: Any, members: int) -> None:
    (graph,), (signature,) = model.subgraphs, model.signatureDefs
    kept = {f"logits_{member}".encode() for member in range(members)}
    signature.outputs = [entry for entry in signature.outputs if entry.name in kept]
    graph.outputs = np.array([entry.tensorIndex for entry in signature.outputs], np.int32)
    drop_unread(model)


_CUTS = {"indexed": _cut_tables, "subgraphs": _cut_subgraphs, "branches": _cut_branches}
