"""Splits off the shared trunk as a graph that runs once per image, whatever the number of members.

A complete graph computes a member from the image on, including what is the same for all members:
the normalization and, where it is shared, the stem. So the file gets two more kinds of graphs after
the complete ones, each with a SignatureDef:

| signature | inputs | outputs |
|---|---|---|
| `prefix` | `image` | `features_0` and so on: what members read of it |
| `rest`, in the layout `"subgraphs"` `rest_{i}` | these, and `member` where it was | `logits` |

They reuse the operators and tensors of the complete graphs and take one or two kilobytes. The
complete graphs stay first: tools that know no signatures run the first graph of a file.

Left alone: files of one member; the layout `"branches"`, which computes the trunk once already;
networks whose trunk has no costly operator.

Exact: the two parts run the operators of the complete graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from larq_ensemble.ir.graph import Graph, Module, Operator, Signature, Tensor
from larq_ensemble.ir.schema import table_key
from larq_ensemble.runtime.file import REST, TRUNK

#: Operators with more than one operation per number that they read. A trunk without any would save
#: no more than it costs to pass its outputs on.
_COSTLY = {
    *("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "LceBconv2d"),
    *("FULLY_CONNECTED", "BATCH_MATMUL", "RESIZE_BILINEAR"),
}


def run(module: Module) -> Counter[str]:
    """Counts `trunk_operators`."""
    complete = list(module.graphs)
    division = None if module.members == 1 else _divide(module)
    if division is None:
        return Counter()
    first = _Places(complete[0])
    (image,) = first.tensors([division.image])
    features = {
        f"features_{number}": tensor
        for number, tensor in enumerate(first.tensors(division.features))
    }
    trunk = first.part(TRUNK, division.trunk, {"image": image}, features)
    module.graphs.append(trunk)
    for number, graph in enumerate(complete):
        places = _Places(graph)
        assert graph.signature is not None
        named = dict(zip(features, places.tensors(division.features), strict=True))
        inputs = dict(graph.signature.inputs)
        image = inputs.pop("image")
        module.graphs.append(
            places.part(
                f"{REST}_{number}" if len(complete) > 1 else REST,
                division.rest,
                ({"image": image} if division.rest_reads_image else {}) | named | inputs,
                dict(graph.signature.outputs),
            )
        )
    return Counter(trunk_operators=len(trunk.operators))


def drop_parts(module: Module) -> bool:
    """Removes the graphs of trunk and rest; returns whether there were any."""
    complete = complete_graphs(module)
    had = len(complete) < len(module.graphs)
    module.graphs = complete
    return had


def complete_graphs(module: Module) -> list[Graph]:
    """The graphs that compute logits from the image."""
    return [graph for graph in module.graphs if not _is_part(graph)]


def trunk_of(module: Module) -> Graph | None:
    """The graph of the shared trunk; `None` if there is none."""
    for graph in module.graphs:
        if graph.signature is not None and graph.signature.key == TRUNK:
            return graph
    return None


def _is_part(graph: Graph) -> bool:
    key = "" if graph.signature is None else graph.signature.key
    return key in (TRUNK, REST) or key.startswith(f"{REST}_")


@dataclass(frozen=True)
class _Division:
    """How complete graphs are divided, by places in their lists, which are alike.

    # Arguments
        trunk, rest: operators of each part. One that works on constants only, for instance
            unpacks a filter, is in each part that reads its output.
        image: the tensor of that name.
        features: tensors between the two.
        rest_reads_image: whether members also read the image itself.
    """

    trunk: list[int]
    rest: list[int]
    image: int
    features: list[int]
    rest_reads_image: bool


class _Places:
    """A graph's operators and tensors by their places."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._operators = graph.operators

    def tensors(self, places: Sequence[int]) -> list[Tensor]:
        return [self._graph.tensors[place] for place in places]

    def part(
        self,
        key: str,
        operators: Sequence[int],
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
    ) -> Graph:
        """A graph of some of the operators.

        It has all tensors in the same places, so that its operators are the same tables.
        """
        return Graph(
            self._graph.tensors,
            [self._operators[place] for place in operators],
            inputs.values(),
            outputs.values(),
            Signature(key, dict(inputs), dict(outputs)),
        )


def _divide(module: Module) -> _Division | None:
    """The division with the largest trunk; `None` if the trunk isn't worth a separate graph."""
    graph = module.graphs[0]
    own, image = _own_tensors(module.graphs), graph.input("image")
    if own is None or image is None:
        return None
    of_member = graph.computed_from(own)
    of_image = graph.computed_from([image])
    of_trunk = {image} | {
        tensor
        for op in graph.operators
        if of_member.isdisjoint(op.outputs)
        for tensor in of_image.intersection(op.outputs)
    }
    if not of_member.issuperset(graph.outputs):  # a branch a member, or all members are alike
        return None
    read_by_members = {
        tensor
        for op in graph.operators
        if not of_member.isdisjoint(op.outputs)
        for tensor in op.operands
    }
    boundary = of_trunk & read_by_members
    features = [tensor for tensor in graph.tensors if tensor in boundary - {image}]
    trunk = _needed(graph, features, given={image})
    if _COSTLY.isdisjoint(op.name for op in trunk):
        return None
    operators = {op: place for place, op in enumerate(graph.operators)}
    tensors = {tensor: place for place, tensor in enumerate(graph.tensors)}
    return _Division(
        [operators[op] for op in trunk],
        [operators[op] for op in _needed(graph, graph.outputs, boundary)],
        tensors[image],
        [tensors[tensor] for tensor in features],
        image in boundary,
    )


def _own_tensors(graphs: Sequence[Graph]) -> set[Tensor] | None:
    """The tensors in which members differ: their number, or constants of the first graph.

    # Returns
        `None` if their graphs differ in more than that.
    """
    first, *others = graphs
    number = first.input("member")
    own = set() if number is None else {number}
    operators = _structure(first)
    for other in others:
        if len(other.tensors) != len(first.tensors) or _structure(other) != operators:
            return None
        for tensor, counterpart in zip(first.tensors, other.tensors, strict=True):
            if tensor not in own and not _equal(tensor, counterpart):
                own.add(tensor)
    return own


def _structure(graph: Graph) -> list[Any]:
    """Something that is equal for graphs of the same operators on tensors in the same places."""
    places: dict[Tensor | None, int] = {t: place for place, t in enumerate(graph.tensors)}

    def described(op: Operator) -> Any:
        inputs, outputs = ([places.get(t, -1) for t in side] for side in (op.inputs, op.outputs))
        return op.name, op.version, inputs, outputs, table_key(op.options), op.custom_options

    return [described(op) for op in graph.operators]


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are described alike and have the same content, if any."""
    if one is other:
        return True
    names = vars(one).keys() - {"data"}
    if any(table_key(getattr(one, name)) != table_key(getattr(other, name)) for name in names):
        return False
    return one.data is other.data or (
        one.data is not None and other.data is not None and np.array_equal(one.data, other.data)
    )


def _needed(graph: Graph, outputs: Collection[Tensor], given: Collection[Tensor]) -> list[Operator]:
    """The operators that compute some tensors from those that are given."""
    needed, operators = set(outputs) - set(given), []
    for op in reversed(graph.operators):
        if not needed.isdisjoint(op.outputs):
            needed.update(set(op.operands) - set(given))
            operators.append(op)
    return operators[::-1]
