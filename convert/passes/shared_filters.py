"""Stores int8 filters once that differ in signs only.

    x -> CONV_2D by f       with bias a and an activation
    z -> CONV_2D by -f      with bias b

becomes

    x -> CONV_2D by f -> MUL by  1 with the activation
    z -> CONV_2D by f -> MUL by -1, and bias -b

for each channel of the output by itself. In the layouts `"subgraphs"` and `"branches"` the scale of
a member's batch norm is one of the filters' scales. These are positive numbers, so a negative scale
turned the signs of the member's filters.

Left alone: filters that no other convolution of the module has with other signs.

Exact: a product with 1 or -1 is, and sums with all signs turned are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from larq_ensemble.ir.graph import Graph, Module, Operator, Tensor, as_bytes
from larq_ensemble.ir.schema import options


def run(module: Module) -> Counter[str]:
    """Counts `shared_filters`, the convolutions whose filters became another one's."""
    alike: dict[bytes, list[_Convolution]] = defaultdict(list)
    for convolution in _convolutions(module.graphs):
        alike[convolution.up_to_signs].append(convolution)
    count = 0
    for convolutions in alike.values():
        first = convolutions[0]
        others = [each for each in convolutions if (each.signs != first.signs).any()]
        if others:
            filters, signs = first.filters.data, first.signs
            for convolution in convolutions:  # all of them, so that members' graphs stay alike
                convolution.turn(filters, signs * convolution.signs)
            count += len(others)
    return Counter(shared_filters=count)


@dataclass(frozen=True)
class _Convolution:
    """A CONV_2D by a constant of +1 and -1.

    # Arguments
        graph, op: where it is.
        filters: int8 `[out, height, width, in]`.
        signs: those of the first weight of each filter, int8 `[out]`.
    """

    graph: Graph
    op: Operator
    filters: Tensor
    signs: np.ndarray

    @property
    def up_to_signs(self) -> bytes:
        """The shape, and the filters with all first weights +1."""
        turned = self.filters.values * self.signs[:, np.newaxis, np.newaxis, np.newaxis]
        return repr(turned.shape).encode() + turned.tobytes()

    def turn(self, filters: np.ndarray | None, signs: np.ndarray) -> None:
        """Gives the convolution other filters, and its outputs their signs again.

        # Arguments
            filters: the bytes of the filters.
            signs: by which the present filters differ from them, int8 `[out]`.
        """
        x, old, bias = self.op.inputs
        assert old is not None
        assert bias is not None
        factor = signs.astype(np.float32)
        add = self.graph.add
        new = add(Tensor(old.shape, old.dtype, filters, quantization=old.quantization))
        turned = add(Tensor(bias.shape, bias.dtype, as_bytes(bias.values * factor)))
        (output,) = self.op.outputs
        sums = add(Tensor(output.shape, output.dtype))
        fused = options("MulOptions", fusedActivationFunction=self.op.activation)
        scaled = Operator("MUL", (sums, add(Tensor.constant(factor))), (output,), fused)
        without = {**vars(self.op.options), "fusedActivationFunction": 0}
        kind = type(self.op.options).__name__.removesuffix("T")
        self.graph.rewrite(
            self.op, inputs=(x, new, turned), outputs=(sums,), options=options(kind, **without)
        )
        self.graph.insert(scaled, after=self.op)


def _convolutions(graphs: Sequence[Graph]) -> Iterator[_Convolution]:
    for graph in graphs:
        for op in graph.find("CONV_2D"):
            filters, *bias = op.operands[1:]
            if filters.dtype == "int8" and filters.data is not None and bias:
                signs = filters.values[:, 0, 0, 0]
                if bias[0].data is not None and (np.abs(filters.values) == 1).all():
                    yield _Convolution(graph, op, filters, signs)
