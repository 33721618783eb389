"""A module as the file that Larq Compute Engine runs.

The ensemble's metadata come last and hold a checksum of the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from larq_ensemble.ir.flatbuffer import to_model
from larq_ensemble.ir.graph import Graph, Module, Operator, Tensor
from larq_ensemble.ir.writer import packed
from larq_ensemble.runtime.file import TRUNK, seal
from larq_ensemble.runtime.metadata import ENTRY, EnsembleMetadata

#: Operators whose result TFLite leaves where the operand lies.
_VIEWS = ("RESHAPE", "EXPAND_DIMS", "SQUEEZE")

#: The number of tensors for which TFLite reserves room.
_RESERVED_TENSORS = 128


def write_ensemble(module: Module, metadata: EnsembleMetadata) -> bytes:
    """The bytes of an ensemble's file, with a checksum."""
    module.metadata[ENTRY] = metadata.to_json()
    return seal(write(module))


def write(module: Module) -> bytes:
    """The bytes of a module; its constants are aligned for vector registers."""
    for graph in module.graphs:
        _read_views_twice(graph)
    model = to_model(module)
    for graph, table in zip(module.graphs, model.subgraphs, strict=True):
        if graph.signature is not None and graph.signature.key == TRUNK:
            table.tensors = _with_room(table)
    # The ensemble's metadata stand last: they can be replaced by longer ones
    # (`larq_ensemble.runtime.file.with_metadata`).
    return packed(model, last=module.metadata.get(ENTRY))


def _read_views_twice(graph: Graph) -> None:
    """Lets an unread RESHAPE read each view that TFLite would overwrite too early.

    ```text
    t = MUL(u, c)        in the place of u
    r = RESHAPE(t)       in the same place
    a = ADD(r, d)        in the same place, too: t is lost
    o = RELU(t)
    ```

    This works around a fault of TFLite's memory planner, in LCE 0.16.0 and in LiteRT's kernels
    without XNNPACK. An operator may overwrite an operand that nobody else reads. Of a view, the
    planner counts the readers of the view and those of the first tensor in its place, here r and u,
    but not those of t between them. A view with two readers isn't overwritten. A graph without such
    a view stays as it is, and so does one that was written before.
    """
    for op in graph.operators:
        view, viewed = op.outputs[0], op.operands[0]
        if op.name not in _VIEWS or not view.shape or graph.uses(view) != 1:
            continue
        while graph.uses(viewed) == 1 and (before := graph.producer(viewed)) is not None:
            if before.name not in _VIEWS:
                break
            viewed = before.operands[0]
        if graph.uses(viewed) > 1 and any(
            reader.name not in _VIEWS and reader.outputs[0].size == view.size
            for reader in graph.consumers(view)
        ):
            shape = np.array([-1, *view.shape[1:]], np.int32)
            operands = (view, graph.add(Tensor.constant(shape)))
            graph.insert(Operator("RESHAPE", operands, (graph.add_like(view),)), after=op)


def _with_room(graph: Any) -> list[Any]:
    """The tensors of the shared trunk, padded with unused ones to a power of two, at least 128.

    This works around a crash of LCE 0.16.0. Preparing a convolution adds tensors to TFLite's list.
    If the list runs out of room, it moves in memory, either before an operator is prepared or at
    the graph's first run. LCE's Python binding crashes in the second case, for example for a graph
    of 112 tensors that ends in a convolution, as a trunk may. TFLite reserves room for 128 tensors
    and doubles it. A list that is full from the start moves before the first operator is prepared,
    and then has enough room.
    """
    used = {int(index) for op in graph.operators for index in (*op.inputs, *op.outputs)}
    count = 1 + max(used)
    places = max(_RESERVED_TENSORS, 1 << (count - 1).bit_length())
    return [*graph.tensors[:count], *[graph.tensors[0]] * (places - count)]
