"""The layout `"branches"`: one graph with a branch per member after the shared trunk.

    image, member -> [GATHER by member] -> logits

becomes

    image -> trunk -> [constants of member 0] -> logits_0
                   -> [constants of member 1] -> logits_1 ...

What depends on no member's values is computed once. Raises an `EnsembleError` if the graph uses
`member` for anything but lookups.

Exact: a constant has the bits of its row.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

from larq_ensemble.convert.passes.member_values import constant_of, take_member_values
from larq_ensemble.ir.graph import Module, Tensor, substituted


def run(module: Module) -> Counter[str]:
    """Counts `member_branches`."""
    values = take_member_values(module)
    graph = module.graph
    assert graph.signature is not None
    of_member = graph.computed_from(values)
    template = graph.tensors
    trunk = [op for op in graph.operators if of_member.isdisjoint(op.outputs)]
    branch = [op for op in graph.operators if not of_member.isdisjoint(op.outputs)]
    (logits,) = graph.signature.outputs.values()
    graph.tensors = [tensor for tensor in template if tensor not in of_member]
    graph.signature.outputs = {}
    operators = trunk
    for member in range(module.members):
        new: dict[Tensor, Tensor] = {}
        for tensor in template:
            if tensor in values:
                new[tensor] = graph.add(constant_of(tensor, values[tensor][member]))
            elif tensor in of_member:
                new[tensor] = graph.add(dataclasses.replace(tensor))
        operators += [substituted(op, new) for op in branch]
        graph.signature.outputs[f"logits_{member}"] = new.get(logits, logits)
    graph.outputs = list(graph.signature.outputs.values())
    graph.rebuild(operators)
    return Counter(member_branches=module.members)
