"""Helpers of the passes that move per-channel scales and offsets.

A map is a tensor that depends on the image. A vector has one value per channel of a map and does
not depend on the image.
"""

from __future__ import annotations

from larq_ensemble.ir.graph import Graph, Operator, Tensor
from larq_ensemble.ir.schema import options


def map_and_vector(op: Operator, name: str, of_image: set[Tensor]) -> tuple[Tensor, Tensor] | None:
    """A map and the vector that the operator `name` adds to it or multiplies it by."""
    if op.name != name or op.activation:
        return None
    for x, vector in (op.operands, op.operands[::-1]):
        if x in of_image and vector not in of_image and vector.shape == x.shape[-1:]:
            return x, vector
    return None


def has_multiplier(op: Operator) -> bool:
    """Whether it is an LceBconv2d with float outputs: a multiplier and a bias per channel."""
    return op.name == "LceBconv2d" and op.inputs[2] is not None


def combination(graph: Graph, name: str, one: Tensor, other: Tensor) -> Operator:
    """An ADD or MUL of two vectors, not placed yet; its output is a tensor of the graph."""
    plain = options(f"{name.capitalize()}Options", fusedActivationFunction=0)
    return Operator(name, (one, other), (graph.add_like(one),), plain)
