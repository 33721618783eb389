"""Takes the members' own values out of the member-indexed graph, for layouts without lookups."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.graph import Module, Operator, Tensor, as_bytes

#: Each member's value of a tensor.
MemberValues = dict[Tensor, Sequence[np.ndarray]]


def take_member_values(module: Module) -> MemberValues:
    """Removes the input `member` and its lookups from the graph.

    # Returns
        Every member's value of each looked-up tensor, which now has no producer.

    # Raises
        EnsembleError: if the graph uses `member` for anything but lookups.
    """
    graph = module.graph
    values: MemberValues = {}
    number = graph.input("member")
    assert number is not None  # the front end's graph has it, and a signature
    assert graph.signature is not None
    #: The tensors that depend on nothing but `member`, with their value for each member.
    known: MemberValues = {
        number: [np.array([member], np.int32) for member in range(module.members)]
    }
    for op in graph.operators:
        if known.keys().isdisjoint(op.operands):
            continue
        first, second = op.operands[0], op.operands[-1]
        if is_lookup(op) and second in known:
            values[op.outputs[0]] = [first.values[index] for index in known[second]]
        elif op.name == "RESHAPE":
            shape = op.outputs[0].shape
            known[op.outputs[0]] = [value.reshape(shape) for value in known[first]]
        else:
            raise EnsembleError(
                f"The graph does {op.name} with the member's number, so only the layout 'indexed' "
                "is possible."
            )
        graph.erase(op)
    graph.inputs.remove(number)
    del graph.signature.inputs["member"]
    graph.eliminate_dead_code()
    return {tensor: rows for tensor, rows in values.items() if tensor in graph.tensors}


def constant_of(tensor: Tensor, values: np.ndarray) -> Tensor:
    """A tensor like another, with one member's values."""
    return dataclasses.replace(tensor, data=as_bytes(values))


def is_lookup(op: Operator) -> bool:
    """Whether it reads rows of a constant table."""
    return (
        op.name == "GATHER"
        and op.operands[0].data is not None
        and not (op.options and (op.options.axis or op.options.batchDims))
    )
