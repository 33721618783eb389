"""Checks that a graph is valid, whichever passes have run.

Tests run `verify` after each pass of the pipeline. The checks are those of a file that is opened,
`larq_ensemble.tflite.verifier`, and a check for dead code.
"""

from __future__ import annotations

from larq_ensemble.ir.graph import Graph, Module
from larq_ensemble.tflite.rules import InvalidGraphError, UncheckedError, require
from larq_ensemble.tflite.verifier import graph_problems

__all__ = ["InvalidGraphError", "verify"]


def verify(module: Module, *, no_dead_code: bool = False) -> None:
    """Checks every graph of a module.

    # Arguments
        no_dead_code: also check that every operator's output is needed.

    # Raises
        InvalidGraphError: for the first thing that is wrong.
    """
    for number, graph in enumerate(module.graphs):
        try:
            for problem in graph_problems(graph, module.members):
                if not isinstance(problem, UncheckedError):
                    raise problem
            if no_dead_code:
                _verify_all_needed(graph)
        except InvalidGraphError as error:
            name = f"Graph {number}" if graph.signature is None else repr(graph.signature.key)
            raise InvalidGraphError(f"{name}: {error}") from None


def _verify_all_needed(graph: Graph) -> None:
    needed = set(graph.outputs)
    for op in reversed(graph.operators):
        require(not needed.isdisjoint(op.outputs), f"{op.name} is dead code")
        needed.update(op.operands)
