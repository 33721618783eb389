"""How the members lie in the file.

LCE's converter gives one graph, in which each member's own values are rows of tables that GATHER
reads by the input `member`. The other layouts are made of it here, so each takes one conversion,
whatever the number of members:

| layout | graph | inputs | outputs |
|---|---|---|---|
| `indexed` | one, as it was converted | `image`, `member` | `logits` |
| `subgraphs` | one a member, each with a SignatureDef `member_{i}` | `image` | `logits` |
| `branches` | one, all members behind what they share | `image` | `logits_{i}` of each member |

In `subgraphs` and `branches` a member's row is a constant that takes the place of the GATHER.
Constants that members have in common are stored once, and so are the subgraphs' operators.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from larq_ensemble.convert.binary_convolutions import bit_packable
from larq_ensemble.convert.flatbuffer import add_buffer, content, operator_names
from larq_ensemble.convert.packing import drop_unread, renumbered
from larq_ensemble.errors import EnsembleError


def default_layout(model: Any) -> str:
    """`"subgraphs"` if members own filters that can be bit-packed there, else `"indexed"`."""
    return "subgraphs" if any(bit_packable(model)) else "indexed"


def lay_out(model: Any, layout: str, members: int) -> None:
    """Brings the members of a `ModelT` from the layout `"indexed"` into another, in place.

    # Arguments
        model: what `larq_ensemble.convert.member_graph` was converted to, `larq_ensemble.convert.packing.simplify`ed
            and, for this layout, `larq_ensemble.convert.rewrites.rewrite`n.
        layout: `"indexed"` (nothing is to do), `"subgraphs"` or `"branches"`.
        members: how many rows the tables have.

    # Raises
        EnsembleError: if `member` is used for more than to look rows up.
    """
    if layout == "indexed":
        return
    own = _take_out_lookups(model, members)
    drop_unread(model)
    {"subgraphs": _to_subgraphs, "branches": _to_branches}[layout](model, own, members)


@dataclass(frozen=True)
class _Own:
    """A value that each member has its own of.

    # Arguments
        tensor: the `TensorT` for it in the graph.
        rows: its content, by member.
    """

    tensor: Any
    rows: Sequence[np.ndarray]

    def of(self, member: int, model: Any) -> Any:
        """A member's row as a constant `TensorT` of the model."""
        tensor = copy.copy(self.tensor)
        tensor.buffer = add_buffer(model, self.rows[member])
        return tensor


def _take_out_lookups(model: Any, members: int) -> list[_Own]:
    """Takes the input `member` and all that reads it out of the graph.

    # Returns
        What was looked up; no operator makes these tensors any more.
    """
    graph, names = model.subgraphs[0], operator_names(model)
    (signature,) = model.signatureDefs
    (number,) = (entry.tensorIndex for entry in signature.inputs if entry.name == b"member")
    # The content of what depends on the member's number alone, by member.
    known: dict[int, list[Any]] = {
        number: [np.array([member], np.int32) for member in range(members)]
    }
    own, kept = [], []
    for op in graph.operators:
        inputs, (output, *_) = op.inputs.tolist(), op.outputs.tolist()
        if known.keys().isdisjoint(inputs):
            kept.append(op)
            continue
        name = names[op.opcodeIndex]
        values = [known.get(i) or [content(model, graph.tensors[i])] * members for i in inputs]
        options = op.builtinOptions
        is_lookup = name == "GATHER" and not (options.axis or options.batchDims)
        if is_lookup and values[0][0] is not None:
            rows = [table[row] for table, row in zip(*values, strict=True)]
            own.append(_Own(graph.tensors[output], rows))
        elif name == "RESHAPE":
            known[output] = [value.reshape(shape) for value, shape in zip(*values, strict=True)]
        else:
            raise EnsembleError(
                f"The graph does {name} with the member's number, so only the layout 'indexed' "
                "is possible."
            )
    graph.operators = kept
    graph.inputs = graph.inputs[graph.inputs != number]
    signature.inputs = [entry for entry in signature.inputs if entry.tensorIndex != number]
    return own


def _positions(model: Any, own: Sequence[_Own]) -> dict[int, _Own]:
    """What each member has its own of, by the number of its tensor."""
    by_tensor = {id(item.tensor): item for item in own}
    return {
        index: by_tensor[id(tensor)]
        for index, tensor in enumerate(model.subgraphs[0].tensors)
        if id(tensor) in by_tensor
    }


def _to_subgraphs(model: Any, own: Sequence[_Own], members: int) -> None:
    """A copy of the graph for each member, which differ in nothing but their constants."""
    (template,), (signature,) = model.subgraphs, model.signatureDefs
    positions = _positions(model, own)
    model.subgraphs, model.signatureDefs = [], []
    for member in range(members):
        graph, of_member = copy.copy(template), copy.copy(signature)
        graph.tensors = [
            positions[index].of(member, model) if index in positions else tensor
            for index, tensor in enumerate(template.tensors)
        ]
        of_member.signatureKey, of_member.subgraphIndex = f"member_{member}", member
        model.subgraphs.append(graph)
        model.signatureDefs.append(of_member)


def _to_branches(model: Any, own: Sequence[_Own], members: int) -> None:
    """One graph with what no member's value has an effect on once, and the rest for each."""
    (graph,), (signature,) = model.subgraphs, model.signatureDefs
    positions = _positions(model, own)
    of_member = set(positions)
    common, repeated = [], []
    for op in graph.operators:
        if of_member.isdisjoint(op.inputs.tolist()):
            common.append(op)
        else:
            repeated.append(op)
            of_member.update(op.outputs.tolist())
    template, entry = graph.tensors, signature.outputs[0]
    kept = [index for index in range(len(template)) if index not in of_member]
    shared = {old: new for new, old in enumerate(kept)} | {-1: -1}
    graph.tensors = [template[index] for index in kept]
    graph.operators = [_moved(op, shared) for op in common]
    graph.inputs, outputs = renumbered(graph.inputs, shared), []
    signature.outputs = []
    for member in range(members):
        new = dict(shared)
        for old in sorted(of_member):
            new[old] = len(graph.tensors)
            graph.tensors.append(
                positions[old].of(member, model) if old in positions else template[old]
            )
        graph.operators += [_moved(op, new) for op in repeated]
        output = copy.copy(entry)
        output.name, output.tensorIndex = f"logits_{member}", new[entry.tensorIndex]
        signature.outputs.append(output)
        outputs.append(output.tensorIndex)
    for entry in signature.inputs:
        entry.tensorIndex = shared[entry.tensorIndex]
    graph.outputs = np.array(outputs, np.int32)


def _moved(op: Any, new: dict[int, int]) -> Any:
    """A copy of an operator that reads and writes the tensors of other numbers."""
    moved = copy.copy(op)
    moved.inputs, moved.outputs = renumbered(op.inputs, new), renumbered(op.outputs, new)
    return moved
