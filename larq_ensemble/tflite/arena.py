"""Where things lie in memory that share it by their lifetimes, and how much of it they take.

TFLite puts the inputs, the outputs and everything that operators compute into one block of memory,
the arena. Two tensors may have the same place in it if one is no longer needed when the other is
computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
    lives = list(_lives(graph))
    return end_of(lives, offsets(lives, ALIGNMENT))


def offsets(lives: Sequence[Life], alignment: int) -> list[int]:
    """Where each thing begins in memory, in bytes.

    Those that are needed from beginning to end come first, then each, the largest first, gets the
    smallest gap that fits among those that are needed at the same time, or a place behind them.

    # Arguments
        lives: of the things.
        alignment: bytes at multiples of which each begins.
    """
    placed: dict[int, int] = {}
    for number in sorted(range(len(lives)), key=lambda number: lives[number].turn()):
        life = lives[number]
        together = sorted(
            (start, start + lives[other].size)
            for other, start in placed.items()
            if lives[other].meets(life)
        )
        placed[number] = _place(life.size, together, alignment)
    return [placed[number] for number in range(len(lives))]


def end_of(lives: Sequence[Life], starts: Sequence[int]) -> int:
    """The bytes of memory that things take in their places."""
    return max((start + life.size for start, life in zip(starts, lives, strict=True)), default=0)


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

    def turn(self) -> tuple[bool, int, int]:
        """Sorts things in the order in which they are placed."""
        return (False, 0, 0) if self.is_whole else (True, -self.size, self.first)


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


def _place(size: int, taken: Iterable[tuple[int, int]], alignment: int) -> int:
    """Where something goes.

    # Arguments
        size: of it.
        taken: start and end of each that it must not overlap, sorted.
    """
    best: int | None = None
    smallest = end = 0
    for start, stop in taken:
        at = _aligned(end, alignment)
        if at + size <= start and (best is None or start - at < smallest):
            best, smallest = at, start - at
        end = max(end, stop)
    return _aligned(end, alignment) if best is None else best


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
