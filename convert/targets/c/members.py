"""The graphs of a file as one graph for any member, whose constants have a row for each member.

In the layout `"indexed"` a member's values are looked up by its number; in `"subgraphs"` each
member has a graph of the same operators with constants of its own. Either way, what doesn't depend
on the image is computed here, once for each member, as TFLite's kernels compute it. So nothing is
left of lookups, splits, casts and sums of vectors, and what is equal for all members is shared.
"""

from __future__ import annotations

import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.evaluation import UnknownOperatorError, evaluate
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.ir.graph import Graph, Operator, Tensor
from larq_ensemble.ir.schema import table_key
from larq_ensemble.runtime.file import EnsembleFile


class MemberGraph:
    """The graph of any member of a file, from the image to the logits.

    # Arguments
        file: the ensemble, for LCE, in the layout `"indexed"` or `"subgraphs"`.

    # Attributes
        graph: the first member's; in the layout `"indexed"`, everybody's.
        members: M.
        of_image: the tensors that depend on the image; all others are constants.

    # Raises
        EnsembleError: if the file is for LiteRT or quantized, has the layout `"branches"`, or
            members whose operators differ.
    """

    def __init__(self, file: EnsembleFile) -> None:
        _check_form(file)
        metadata = file.metadata
        graphs = read(file.data).graphs
        complete = [graphs[part.index] for part in file.graphs]
        self.members = metadata.members
        self.graph = complete[0]
        if len(self.graph.outputs) != 1:
            raise EnsembleError(
                f"The file is damaged: its graph has {len(self.graph.outputs)} outputs, not only "
                "the logits. Copy or convert it again."
            )
        self.of_image = self.graph.of_image()
        #: For each member, its graph and the values known in it.
        self._known: list[tuple[Graph, dict[Tensor, np.ndarray]]] = []
        #: For each member, its tensor for each of the first one's.
        self._places: list[dict[Tensor, Tensor]] = []
        for member in range(self.members):
            graph = complete[member if len(complete) > 1 else 0]
            number = graph.input("member")
            known = {} if number is None else {number: np.array([member], np.int32)}
            self._known.append((graph, known))
            self._places.append(self._counterparts(graph))
        self._rows: dict[Tensor, np.ndarray] = {}

    def rows(self, tensor: Tensor) -> np.ndarray:
        """A constant, `[members, *shape]`, or if all members have the same, `[1, *shape]`.

        # Raises
            EnsembleError: if it is computed by an operator that can't be evaluated.
        """
        if tensor not in self._rows:
            try:
                values = [
                    evaluate(graph, places.get(tensor, tensor), known)
                    for (graph, known), places in zip(self._known, self._places, strict=True)
                ]
            except UnknownOperatorError as error:
                raise EnsembleError(
                    f"The value of {describe(tensor)} can't be computed: {error}."
                ) from error
            same = all(np.array_equal(values[0], value, equal_nan=False) for value in values[1:])
            self._rows[tensor] = np.stack(values[:1] if same else values)
        return self._rows[tensor]

    def _counterparts(self, graph: Graph) -> dict[Tensor, Tensor]:
        """The tensors of another member's graph, by those of the first."""
        if graph is self.graph:
            return {}
        places: dict[Tensor, Tensor] = {}
        ours, theirs = self.graph.operators, graph.operators
        if len(ours) != len(theirs) or any(map(_differ, ours, theirs)):
            raise EnsembleError(
                "The members' graphs have different operators, so one program can't run them all: "
                "convert the run again with `layout` 'indexed'."
            )
        for one, other in zip(ours, theirs, strict=True):
            places.update(zip(one.operands, other.operands, strict=True))
            places.update(zip(one.outputs, other.outputs, strict=True))
        return places


def describe(tensor: Tensor) -> str:
    """A tensor for an error: its name, or if names are stripped, its shape."""
    return f"{tensor.name or 'a tensor'} {list(tensor.shape)}"


def _check_form(file: EnsembleFile) -> None:
    metadata = file.metadata
    if metadata.quantization is not None:
        raise EnsembleError(
            f"The file holds a real-valued network quantized to {metadata.quantization}: TFLite "
            "Micro runs those. C source is made of binarized networks."
        )
    if metadata.target != "lce":
        raise EnsembleError(
            f"The file is for {metadata.target!r}, with its binary filters already unpacked: give "
            "the file that was converted with `target` 'lce'."
        )
    if metadata.layout == "branches":
        raise EnsembleError(
            "The file has the `layout` 'branches', one graph that computes all members, so no "
            "member can run alone: convert the run again with `layout` 'indexed' or 'subgraphs'."
        )


def _differ(one: Operator, other: Operator) -> bool:
    return _kind(one) != _kind(other)


def _kind(op: Operator) -> object:
    """What two operators have in common if they do the same."""
    shapes = [None if t is None else (t.shape, t.dtype) for t in (*op.inputs, *op.outputs)]
    return op.name, op.custom_options, table_key(op.options), shapes
