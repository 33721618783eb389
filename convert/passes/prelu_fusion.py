"""Fuses a PReLU with a looked-up slope into one operator.

    x -> RELU ------------------> SUB -> y         becomes         x -> PRELU -> y
    x -> NEG -> RELU -> MUL -------^                      alpha -------^
            alpha -------^

LCE's converter finds this pattern only where alpha is a constant.

Left alone: patterns with an intermediate value that something else reads too, or with a fused
activation; slopes that have more values than x.

Exact: PRELU computes `x if x >= 0 else alpha * x`, and one of the two terms of
`relu(x) - alpha * relu(-x)` is zero. Only the sign of a zero may differ, which no comparison sees.
"""

from __future__ import annotations

from collections import Counter

from larq_ensemble.ir.graph import Graph, Module, Operator, Tensor


def run(module: Module) -> Counter[str]:
    """Counts `fused_prelus`."""
    graph, count = module.graph, 0
    for subtraction in graph.find("SUB"):
        found = _match(graph, subtraction)
        if found is not None:
            graph.rewrite(subtraction, name="PRELU", inputs=found)
            count += 1
    return Counter(fused_prelus=count)


def _match(graph: Graph, subtraction: Operator) -> tuple[Tensor, Tensor] | None:
    """`(x, alpha)` if the SUB ends the pattern."""
    if subtraction.activation:
        return None
    positive = _only_use(graph, subtraction.inputs[0], "RELU")
    product = _only_use(graph, subtraction.inputs[1], "MUL")
    if positive is None or product is None or product.activation:
        return None
    (x,) = positive.operands
    for alpha, negative in (product.operands, product.operands[::-1]):
        relu = _only_use(graph, negative, "RELU")
        negation = relu and _only_use(graph, relu.inputs[0], "NEG")
        if negation and negation.inputs[0] is x and _spreads_over(alpha, x):
            return x, alpha
    return None


def _spreads_over(alpha: Tensor, x: Tensor) -> bool:
    """Whether a product of the two has the shape of `x`."""
    missing = len(x.shape) - len(alpha.shape)
    return missing >= 0 and all(
        size in (1, of_x) for size, of_x in zip(alpha.shape, x.shape[missing:], strict=True)
    )


def _only_use(graph: Graph, tensor: Tensor | None, name: str) -> Operator | None:
    """The operator of this name that computes `tensor` for one use alone."""
    return graph.producer(tensor, name) if tensor and graph.uses(tensor) == 1 else None
