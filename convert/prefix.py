"""What all members of an image have in common, as a graph of its own that runs once an image.

A complete graph computes a member from the image, also what no member has an effect on: the
normalization and, where it is shared, the stem. So the file gets further graphs behind the complete
ones, each with a SignatureDef:

| signature | inputs | outputs |
|---|---|---|
| `prefix` | `image` | `features_0` and so on: what members read of it |
| `rest`, in the layout `"subgraphs"` `rest_{i}` | these, and `member` where it was | `logits` |

They consist of the complete graphs' own operators and tensors and take one or two kilobytes. The
complete graphs stay, and stay first: tools that know no signatures run the first graph of a file.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from larq_ensemble.convert.flatbuffer import operator_names, schema
from larq_ensemble.convert.packing import table_key
from larq_ensemble.runtime.file import REST, TRUNK

#: More than an operation for each number that is read. A prefix without such an operator would
#: save no more than it takes to hand its outputs on.
_COSTLY = {
    *("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "LceBconv2d"),
    *("FULLY_CONNECTED", "BATCH_MATMUL", "RESIZE_BILINEAR"),
}
#: How many tensors TFLite has room for at first.
_RESERVED_TENSORS = 128


def add_prefix(model: Any, members: int) -> None:
    """Adds the graphs `prefix` and `rest` to a `ModelT`, in place.

    Nothing is added for a single member, for the layout `"branches"`, whose graph computes what
    members have in common once already, and where they have nothing costly in common.

    # Arguments
        model: with the complete graphs only, as `larq_ensemble.convert.layouts.lay_out` leaves it.
        members: how many members it has.
    """
    graphs, signatures = [*model.subgraphs], [*model.signatureDefs]
    division = _divided(model)
    if members == 1 or division is None:
        return
    inputs = {entry.name: entry.tensorIndex for entry in signatures[0].inputs}
    image = {b"image": inputs.pop(b"image")}
    features = {
        f"features_{number}".encode(): index for number, index in enumerate(division.features)
    }
    _add(model, graphs[0], TRUNK, division.prefix, image, features)
    model.subgraphs[-1].tensors = _with_room(model.subgraphs[-1])
    for number, (graph, signature) in enumerate(zip(graphs, signatures, strict=True)):
        _add(
            model,
            graph,
            f"{REST}_{number}" if len(graphs) > 1 else REST,
            division.rest,
            (image if division.rest_reads_image else {}) | features | inputs,
            {entry.name: entry.tensorIndex for entry in signature.outputs},
        )


def drop_prefix(model: Any) -> bool:
    """Takes the graphs of `add_prefix` out of a `ModelT` again; returns whether it had them."""
    kept = [signature for signature in model.signatureDefs if not _is_part(signature)]
    had = len(kept) < len(model.signatureDefs)
    # They are the last ones, so the others keep their numbers.
    model.subgraphs = model.subgraphs[: len(kept)]
    model.signatureDefs = kept
    return had


def complete_graphs(model: Any) -> list[Any]:
    """The graphs that compute logits from the image."""
    parts = {entry.subgraphIndex for entry in model.signatureDefs or [] if _is_part(entry)}
    return [graph for number, graph in enumerate(model.subgraphs) if number not in parts]


def prefix_graph(model: Any) -> Any | None:
    """The graph of what members have in common; `None` if there is none."""
    for signature in model.signatureDefs or []:
        if signature.signatureKey == TRUNK.encode():
            return model.subgraphs[signature.subgraphIndex]
    return None


def _is_part(signature: Any) -> bool:
    key = (signature.signatureKey or b"").decode()
    return key in (TRUNK, REST) or key.startswith(f"{REST}_")


@dataclass(frozen=True)
class _Division:
    """How a complete graph is divided; operators by their places in its list.

    # Arguments
        prefix, rest: operators of each part. One that works on constants only, for instance
            unpacks a filter, is in each part that reads its output.
        features: numbers of the tensors between the two.
        rest_reads_image: whether members also read the image itself.
    """

    prefix: list[int]
    rest: list[int]
    features: list[int]
    rest_reads_image: bool


def _divided(model: Any) -> _Division | None:
    """The largest prefix that there is; `None` if it isn't worth a graph of its own."""
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    own = _own_tensors(model)
    if own is None:
        return None
    (image,) = (entry.tensorIndex for entry in signature.inputs if entry.name == b"image")
    of_image, of_member, read_by_member = {image}, own, set()
    for op in graph.operators:
        inputs, outputs = set(op.inputs.tolist()), op.outputs.tolist()
        if not of_member.isdisjoint(inputs):
            of_member.update(outputs)
            read_by_member.update(inputs)
        elif not of_image.isdisjoint(inputs):
            of_image.update(outputs)
    logits = graph.outputs.tolist()
    if not of_member.issuperset(logits):  # one branch for each member, or all members are alike
        return None
    boundary = of_image & read_by_member
    features = sorted(boundary - {image})
    prefix = _needed(graph, features, given={image})
    names = operator_names(model)
    if _COSTLY.isdisjoint(names[graph.operators[place].opcodeIndex] for place in prefix):
        return None
    return _Division(prefix, _needed(graph, logits, boundary), features, image in boundary)


def _own_tensors(model: Any) -> set[int] | None:
    """Numbers of what the members have different values in: their number, or constants.

    # Returns
        `None` if their graphs differ in more than that.
    """
    first, *others = model.subgraphs
    inputs = model.signatureDefs[0].inputs
    own = {entry.tensorIndex for entry in inputs if entry.name == b"member"}
    operators = table_key(first.operators)
    for other in others:
        if len(other.tensors) != len(first.tensors) or table_key(other.operators) != operators:
            return None
        for number, tensors in enumerate(zip(first.tensors, other.tensors, strict=True)):
            if number not in own and not _equal(model, *tensors):
                own.add(number)
    return own


def _equal(model: Any, one: Any, other: Any) -> bool:
    """Whether two tensors are described alike and have the same content, if any."""
    if one is other:
        return True
    described = []
    for tensor in (one, other):
        table = copy.copy(tensor)
        table.buffer = 0
        data = model.buffers[tensor.buffer].data
        described.append((table_key(table), None if data is None else data.tobytes()))
    return described[0] == described[1]


def _needed(graph: Any, outputs: Collection[int], given: Collection[int]) -> list[int]:
    """Places of the operators that compute some tensors from those that are given."""
    needed, places = set(outputs) - set(given), []
    for place in reversed(range(len(graph.operators))):
        op = graph.operators[place]
        if not needed.isdisjoint(op.outputs.tolist()):
            needed.update(set(op.inputs.tolist()) - set(given))
            places.append(place)
    return places[::-1]


def _with_room(graph: Any) -> list[Any]:
    """The tensors of a prefix, as many as a power of two: the last ones are not used.

    Preparing a convolution adds tensors to TFLite's list, and to have room for some more the list
    moves in memory, before an operator is prepared or when the graph first runs. LCE's Python
    binding doesn't survive the latter (LCE 0.16.0: a graph of 112 tensors that ends in a
    convolution crashes), which is where a prefix may lead, ending in what adds tensors. TFLite
    reserves room for 128 at first and doubles it: a list that starts out full moves before the
    first operator is prepared, and has enough room then.
    """
    used = {int(index) for op in graph.operators for index in (*op.inputs, *op.outputs)}
    count = 1 + max(used)
    places = max(_RESERVED_TENSORS, 1 << (count - 1).bit_length())
    return [*graph.tensors[:count], *[graph.tensors[0]] * (places - count)]


def _add(
    model: Any,
    graph: Any,
    key: str,
    places: Collection[int],
    inputs: Mapping[bytes, int],
    outputs: Mapping[bytes, int],
) -> None:
    """Adds a part of a graph with its signature."""

    def entries(numbers: Mapping[bytes, int]) -> list[Any]:
        made = []
        for name, number in numbers.items():
            entry = schema().TensorMapT()
            entry.name, entry.tensorIndex = name, number
            made.append(entry)
        return made

    part, signature = copy.copy(graph), schema().SignatureDefT()
    part.operators = [graph.operators[place] for place in places]
    part.inputs = np.array([*inputs.values()], np.int32)
    part.outputs = np.array([*outputs.values()], np.int32)
    signature.signatureKey, signature.subgraphIndex = key.encode(), len(model.subgraphs)
    signature.inputs, signature.outputs = entries(inputs), entries(outputs)
    model.subgraphs.append(part)
    model.signatureDefs.append(signature)
