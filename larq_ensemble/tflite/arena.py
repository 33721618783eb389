"""Where things lie in memory that share it by their lifetimes, and how much of it they take.

TFLite puts the inputs, the outputs and everything that operators compute into one block of memory,
the arena. Two tensors may have the same place in it if one is no longer needed when the other is
computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
    tensors = [[life] for life in _lives(graph)]
    return end_of(tensors, offsets(tensors, ALIGNMENT))


def offsets(things: Sequence[Sequence[Life]], alignment: int) -> list[int]:
    """Where each thing begins in memory, in bytes.

    Those that are needed from beginning to end come first, then each, the largest first, gets the
    smallest gap that fits among those that are needed at the same time, or a place behind them.

    # Arguments
        things: the lives of each; several that follow each other begin at the same place.
        alignment: bytes at multiples of which each begins.
    """
    placed: dict[int, int] = {}
    for number in sorted(range(len(things)), key=lambda number: _turn(things[number])):
        starts = [(start, life) for other, start in placed.items() for life in things[other]]
        placed[number] = _place(things[number], starts, alignment)
    return [placed[number] for number in range(len(things))]


def end_of(things: Sequence[Sequence[Life]], starts: Sequence[int]) -> int:
    """The bytes of memory that things take in their places."""
    ends = (
        start + life.size for start, thing in zip(starts, things, strict=True) for life in thing
    )
    return max(ends, default=0)


@dataclass(frozen=True)
class Life:
    """When something is needed in memory.

    # Arguments
        size: in bytes.
        first, last: numbers of the first and the last step, of a graph its operators, that need it.
        is_whole: whether it is needed from the beginning to the end.
    """

    size: int
    first: int
    last: int
    is_whole: bool = False

    def meets(self, other: Life) -> bool:
        """Whether both are needed at some step."""
        return self.first <= other.last and other.first <= self.last


def _turn(thing: Sequence[Life]) -> tuple[bool, int, int]:
    """Sorts things in the order in which they are placed."""
    if any(life.is_whole for life in thing):
        return False, 0, 0
    return True, -max(life.size for life in thing), min(life.first for life in thing)


def _lives(graph: AnyGraph) -> Iterator[Life]:
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
            yield Life(bytes_of(tensor), begin, finish, (begin, finish) == (0, end))


def _place(thing: Sequence[Life], placed: Sequence[tuple[int, Life]], alignment: int) -> int:
    """Where a thing goes.

    # Arguments
        thing: its lives.
        placed: where other things begin that have a place.
    """
    # (start, end, size): at `start` to `end` there must be nothing of this size of the thing.
    taken = [
        (start, start + other.size, life.size)
        for start, other in placed
        for life in thing
        if other.meets(life)
    ]
    candidates = sorted({0, *(_aligned(end, alignment) for _, end, _ in taken)})
    fitting = [
        at
        for at in candidates
        if all(at + size <= start or at >= end for start, end, size in taken)
    ]

    def gap(at: int) -> int | float:
        return min((start - at for start, _, _ in taken if start >= at), default=math.inf)

    return min(fitting, key=gap)


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
