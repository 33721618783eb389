"""Where the maps of a plan lie in the arena.

A map is needed from the step that writes it to the last that reads it. What `begin` computes for
the members is needed to the end, because any member may come next. Maps of other times share
memory (`larq_ensemble.tflite.arena`).

A step may store a map where one lies that it reads for the last time, if no pixel overwrites what a
later one reads: so the sum of a residual block takes the place of its shortcut, and a pooled map
that of the larger one.

Steps may also run in another order: one that frees more than it takes comes as early as it can. The
smaller arena is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from larq_ensemble.convert.targets.c.plan import (
    AddMap,
    Convolution,
    Elementwise,
    Map,
    MultiplyMap,
    Plan,
    Pooling,
    Step,
    Store,
    Window,
)
from larq_ensemble.tflite.arena import Life, end_of, offsets

#: Bytes at multiples of which maps begin.
ALIGNMENT = 8
_WORD_BITS = 32


def place(plan: Plan, scratch_bytes: Callable[[Step], int]) -> None:
    """Sets the offset of each map, of each step's scratch memory, and the size of the arena.

    # Arguments
        plan: all of it.
        scratch_bytes: how much memory of its own a step's kernel needs.
    """
    lives = {map: _life(map, plan.steps, plan.logits) for map in plan.maps}
    places = _places(plan.steps, lives)
    needed = [scratch_bytes(step) for step in plan.steps]
    things = [[lives[map] for map in maps] for maps in places]
    things += [[Life(size, number, number)] for number, size in enumerate(needed)]
    starts = offsets(things, ALIGNMENT)
    for maps, start in zip(places, starts, strict=False):
        for map in maps:
            map.offset = start
    plan.scratch = starts[len(places) :]
    plan.arena_bytes = -(-end_of(things, starts) // ALIGNMENT) * ALIGNMENT


def _life(map: Map, steps: Sequence[Step], logits: Map) -> Life:
    writing = [number for number, step in enumerate(steps) if map in step.writes]
    reading = [number for number, step in enumerate(steps) if map in step.reads]
    last = max([*writing, *reading])
    is_kept = map is logits or (map.shared and not steps[last].shared)
    # Beyond the last step: no step of a member may overwrite it, not even the last to read it.
    return Life(map.bytes, min(writing), len(steps) if is_kept else last)


def _places(steps: Sequence[Step], lives: dict[Map, Life]) -> list[list[Map]]:
    """The maps that follow each other in each place of the arena."""
    place_of = {map: [map] for map in lives}
    for number, step in enumerate(steps):
        reads = [*step.reads]
        free = [map for map in _read_before(step) if reads.count(map) == 1 and map in lives]
        free = [map for map in free if lives[map].last == number]
        for action_number, action in enumerate(step.epilogue):
            if not isinstance(action, Store) or lives[action.map].first < number:
                continue
            later = {
                other.map
                for other in step.epilogue[action_number:]
                if isinstance(other, AddMap | MultiplyMap)
            }
            fitting = [map for map in free if map not in later and _trails(step, action, map)]
            if fitting:
                best = max(fitting, key=lambda map: map.bytes)
                free.remove(best)
                place_of[best].append(action.map)
                place_of[action.map] = place_of[best]
    return [*{id(maps): maps for maps in place_of.values()}.values()]


def _read_before(step: Step) -> list[Map]:
    """The maps of floats of which a step reads what a pixel needs before it writes the pixel."""
    maps = [action.map for action in step.epilogue if isinstance(action, AddMap | MultiplyMap)]
    if isinstance(step, Convolution | Pooling | Elementwise):
        maps += [map for map in step.inputs if map.format != "signs"]
    return maps


def _trails(step: Step, store: Store, read: Map) -> bool:
    """Whether what a step stores stays behind what it still has to read of a map."""
    pixels = np.arange(step.height * step.width - 1)
    map = store.map
    if store.channel or map.channels != step.channels:
        return False
    bits = map.pixel_bits if map.format == "signs" else map.channels * map.number_bits
    written = -(-(pixels + 1) * bits // _WORD_BITS) * _WORD_BITS
    first = _first_read(step, read)
    if first is None:
        return False
    needed = np.minimum.accumulate(first[::-1])[::-1][1:] * read.channels * read.number_bits
    return bool((written <= needed).all())


def _first_read(step: Step, read: Map) -> np.ndarray | None:
    """The first pixel of a map that each pixel of a step reads, `[pixels]`."""
    if read not in step.inputs:
        is_whole = (read.height, read.width) == (step.height, step.width)
        return np.arange(step.height * step.width) if is_whole else None
    if isinstance(step, Elementwise):
        window = Window(1, 1, step.stride_y, step.stride_x, step.top, step.left)
    else:
        assert isinstance(step, Convolution | Pooling)
        window = step.window
    rows = np.clip(np.arange(step.height) * window.stride_y - window.top, 0, read.height - 1)
    columns = np.clip(np.arange(step.width) * window.stride_x - window.left, 0, read.width - 1)
    return (rows[:, np.newaxis] * read.width + columns).reshape(-1)
