"""The layout `"subgraphs"`: a graph per member, with the member's values as constants.

    image, member -> [GATHER by member] -> logits

becomes a graph for each member, with the SignatureDef `member_{i}`:

    image -> [constants of member i] -> logits

The graphs share all tensors except these constants, so one more member takes little more than its
values and a list of tensors. Raises an `EnsembleError` if the graph uses `member` for anything but
lookups.

Exact: a constant has the bits of its row.
"""

from __future__ import annotations

from collections import Counter

from larq_ensemble.convert.passes.member_values import constant_of, take_member_values
from larq_ensemble.ir.graph import Graph, Module, Tensor


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
