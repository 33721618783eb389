"""How much memory a graph's tensors take while it runs.

TFLite puts the inputs, the outputs and everything that operators compute into one block of memory,
the arena. Two tensors may have the same place in it if one is no longer needed when the other is
computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from larq_ensemble.tflite.model import AnyGraph
from larq_ensemble.tflite.rules import bytes_of

#: Bytes at multiples of which tensors begin in the arena.
ALIGNMENT = 64


def arena_bytes(graph: AnyGraph) -> int:
    """An estimate of the arena in bytes, by TFLite's own planner: greedy by size.

    Inputs are placed first, since they keep their places during the whole run. Then each tensor,
    the largest first, gets the smallest gap that fits among the tensors that are needed at the same
    time, or a place behind them.

    Kernels may ask for more: a convolution of TFLite copies its input's windows for a matrix
    product. Delegates such as XNNPACK have memory of their own instead, for what they run.

    # References
        - [Pisarchyk, Lee: Efficient memory management for deep neural net
          inference](https://arxiv.org/abs/2001.03288)
    """
    placed: list[tuple[int, _Life]] = []
    for life in sorted(_lives(graph), key=_Life.turn):
        together = sorted(
            (start, start + other.size) for start, other in placed if other.meets(life)
        )
        placed.append((_place(life.size, together), life))
    return max((start + life.size for start, life in placed), default=0)


@dataclass(frozen=True)
class _Life:
    """When a tensor is needed.

    # Arguments
        size: in bytes.
        first, last: numbers of the first and the last operator that need it.
        is_whole: whether it is needed from the beginning to the end.
    """

    size: int
    first: int
    last: int
    is_whole: bool

    def meets(self, other: _Life) -> bool:
        """Whether both are needed by an operator."""
        return self.first <= other.last and other.first <= self.last

    def turn(self) -> tuple[bool, int, int]:
        """Sorts tensors in the order in which they are placed."""
        return (False, 0, 0) if self.is_whole else (True, -self.size, self.first)


def _lives(graph: AnyGraph) -> Iterator[_Life]:
    """Every tensor in the arena, in the order of the graph."""
    end = len(graph.operators)
    first = dict.fromkeys(graph.inputs, 0)
    last = dict.fromkeys([*graph.inputs, *graph.outputs], end)
    for number, op in enumerate(graph.operators):
        for tensor in op.outputs:
            first.setdefault(tensor, number)
        for tensor in (*op.operands, *op.outputs):
            last[tensor] = max(number, last.get(tensor, 0))
    for tensor in graph.tensors:
        if tensor in first:
            begin, finish = first[tensor], last[tensor]
            yield _Life(bytes_of(tensor), begin, finish, (begin, finish) == (0, end))


def _place(size: int, taken: Iterable[tuple[int, int]]) -> int:
    """Where a tensor goes.

    # Arguments
        size: of the tensor.
        taken: start and end of each that it must not overlap, sorted.
    """
    best: int | None = None
    smallest = end = 0
    for start, stop in taken:
        at = _aligned(end)
        if at + size <= start and (best is None or start - at < smallest):
            best, smallest = at, start - at
        end = max(end, stop)
    return _aligned(end) if best is None else best


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
