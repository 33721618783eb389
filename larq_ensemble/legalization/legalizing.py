"""The order of the patterns, and what applies them to a module or to a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from larq_ensemble.errors import UnknownNameError
from larq_ensemble.ir.flatbuffer import read, to_model
from larq_ensemble.ir.graph import Graph, Module, Operator
from larq_ensemble.ir.writer import packed
from larq_ensemble.legalization import FILTERS, constants, convolutions, moves, pooling, signs
from larq_ensemble.legalization.conversion import Conversion

#: Operator -> what replaces it by builtin ones.
PATTERNS: Mapping[str, Callable[[Conversion, Operator], None]] = {
    "LceQuantize": signs.quantize,
    "LceDequantize": signs.dequantize,
    "LceBconv2d": convolutions.convolve,
    "LceBMaxPool2d": pooling.pool,
}


def legalize(module: Module, *, filters: str = "int8") -> Counter[str]:
    """Rewrites LCE's operators into builtin ones of the same values, in place.

    # Arguments
        module: any graphs.
        filters: how the filters of binary convolutions are stored, one of `FILTERS`. `"int8"`: a
            byte a weight, computed in integers, the fastest. `"1bit"`: packed as before, and
            unpacked at each run, the smallest.

    # Returns
        How many operators were replaced, by their names; `folded`: how many were computed now,
        because they depend on constants only.

    # Raises
        EnsembleError: for an operator that can't be replaced, with its name and shapes.
        UnknownNameError: for other `filters`.
    """
    if filters not in FILTERS:
        raise UnknownNameError("filters", filters, FILTERS)
    counts: Counter[str] = Counter()
    for graph in module.graphs:
        counts.update(_legalize_graph(graph, filters))
    module.update_operator_codes()
    return counts


def legalized(data: bytes, *, filters: str = "int8") -> bytes:
    """A file's bytes with builtin operators only.

    # Arguments
        data: the file, of one graph or several, with or without an ensemble's metadata.
        filters: as for `legalize`.

    # Raises
        EnsembleError: as `legalize`, or if the bytes are damaged.
    """
    module = read(data)
    legalize(module, filters=filters)
    return packed(to_model(module))


def _legalize_graph(graph: Graph, filters: str) -> Counter[str]:
    counts = Counter(folded=constants.fold(graph))
    conversion = Conversion(graph, filters)
    for old in graph.operators:
        op = conversion.current(old)
        pattern = PATTERNS.get(op.name)
        if pattern is not None:
            pattern(conversion, op)
            counts[op.name] += 1
        elif conversion.signs.keys().isdisjoint(op.operands):
            conversion.keep(op)
        else:
            moves.move(conversion, op)
    for tensor in graph.outputs:
        if tensor in conversion.signs:
            signs.pack(conversion, tensor)
    conversion.finish()
    return counts
