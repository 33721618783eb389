"""Folds a per-channel product after a binary convolution into the convolution's multiplier.

    s * conv(x)        becomes  conv(x) with the multiplier m * s and the bias b * s
    s * prelu(conv(x)) becomes  prelu(conv(x)) likewise, for s > 0

where s has one value per channel. The filters stay shared. The product over the map is gone; the
product over channels that replaces it is computed once if s is constant.

Only for layouts with one graph per member: LceBconv2d reads multiplier and bias only at its first
run, so a looked-up s would stay that of the first member that runs.

Left alone: products with a fused activation; maps that something else reads too; after a PReLU,
scales that are not positive for every member, or unknown.

Not bit-exact: floats are multiplied in another order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from larq_ensemble.convert.passes.weights import combination, has_multiplier, map_and_vector
from larq_ensemble.ir.evaluation import UnknownOperatorError, evaluate
from larq_ensemble.ir.graph import Graph, Module, Operator, Tensor


def run(module: Module) -> Counter[str]:
    """Counts `folded_scales`."""
    graph, helpers = module.graph, []
    found = list(_matches(graph))
    behind_prelu = [match.scale for match in found if match.behind_prelu]
    positive = _positive(module, behind_prelu)
    folded = [match for match in found if not match.behind_prelu or match.scale in positive]
    for match in folded:
        x, filters, multiplier, bias, *rest = match.convolution.inputs
        assert multiplier is not None  # `has_multiplier`
        assert bias is not None
        products = [combination(graph, "MUL", multiplier, match.scale)]
        if not bias.is_constant(0):
            products.append(combination(graph, "MUL", bias, match.scale))
            bias = products[1].outputs[0]
        inputs = (x, filters, products[0].outputs[0], bias, *rest)
        graph.rewrite(match.convolution, inputs=inputs)
        helpers += products
        (scaled,) = (tensor for tensor in match.product.operands if tensor is not match.scale)
        graph.erase(match.product)
        graph.replace_uses(match.product.outputs[0], scaled)
    graph.rebuild(graph.operators, helpers)
    return Counter(folded_scales=len(folded))


@dataclass(frozen=True)
class _Match:
    """A product that a convolution can compute.

    # Arguments
        convolution: an LceBconv2d.
        product: the MUL of its output, or of that of a PReLU behind it, by the scale.
        scale: `[channels]`.
        behind_prelu: whether there is a PReLU between.
    """

    convolution: Operator
    product: Operator
    scale: Tensor
    behind_prelu: bool


def _matches(graph: Graph) -> Iterator[_Match]:
    of_image = graph.of_image()
    for convolution in filter(has_multiplier, graph.operators):
        tensor, behind_prelu = convolution.outputs[0], False
        while graph.uses(tensor) == 1 and (consumers := graph.consumers(tensor)):
            (op,) = consumers
            scaled = map_and_vector(op, "MUL", of_image)
            if scaled and op.outputs[0] not in graph.outputs:
                yield _Match(convolution, op, scaled[1], behind_prelu)
            elif not behind_prelu and op.name == "PRELU" and op.inputs[0] is tensor:
                behind_prelu = True
            else:
                break
            tensor = op.outputs[0]


def _positive(module: Module, vectors: Sequence[Tensor]) -> set[Tensor]:
    """The vectors that are positive in every channel for every member."""
    graph = module.graph
    number = graph.input("member")
    positive = set(vectors)
    for member in range(module.members):
        given = {} if number is None else {number: np.array([member], np.int32)}
        for vector in list(positive):
            try:
                values = evaluate(graph, vector, given)
            except UnknownOperatorError:
                positive.discard(vector)
                continue
            if not (values > 0).all():
                positive.discard(vector)
    return positive
