"""The layout `"subgraphs"`: a graph a member, whose own values are constants.

    image, member -> [GATHER by member] -> logits

becomes a graph for each member, with the SignatureDef `member_{i}`:

    image -> [constants of member i] -> logits

The graphs have all tensors in common but those constants, so a further one takes little more than
its values and a list of tensors. Raises an `EnsembleError` where the member's number is used for
more than to look rows up.

Exact: a constant holds the bits of the row.
"""

from __future__ import annotations

from collections import Counter

from larq_ensemble.convert.ir.graph import Graph, Module, Tensor
from larq_ensemble.convert.passes.member_values import constant_of, take_member_values


def run(module: Module) -> Counter[str]:
    """Counts `member_subgraphs`."""
    values = take_member_values(module)
    template = module.graph

    def of_member(member: int) -> Graph:
        def substitute(tensor: Tensor) -> Tensor:
            return constant_of(tensor, values[tensor][member]) if tensor in values else tensor

        graph = template.copy(substitute)
        assert graph.signature is not None
        graph.signature.key = f"member_{member}"
        return graph

    module.graphs = [of_member(member) for member in range(module.members)]
    return Counter(member_subgraphs=module.members)
