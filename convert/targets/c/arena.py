"""Where the maps of a plan lie in the arena.

A map is needed from the step that writes it to the last that reads it. What `begin` computes for
the members is needed to the end, because any member may come next. Maps of other times share
memory (`larq_ensemble.tflite.arena`).

A step may store a map where one lies that it reads at the same pixel for the last time, if they
have the same shape and format: so the sum of a residual block takes the place of its shortcut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from larq_ensemble.convert.targets.c.fusion import is_pixel_by_pixel
from larq_ensemble.convert.targets.c.plan import (
    AddMap,
    Map,
    MultiplyMap,
    Plan,
    Step,
    Store,
)
from larq_ensemble.tflite.arena import Life, end_of, offsets

#: Bytes at multiples of which maps begin.
ALIGNMENT = 8


def place(plan: Plan, scratch_bytes: Callable[[Step], int]) -> None:
    """Sets the offset of each map, of each step's scratch memory, and the size of the arena.

    # Arguments
        plan: all of it.
        scratch_bytes: how much memory of its own a step's kernel needs.
    """
    steps = plan.steps
    lives = {map: _life(map, steps, plan.logits) for map in plan.maps}
    together = _in_place(steps, lives)
    groups: dict[Map, list[Map]] = {}
    for map in lives:
        groups.setdefault(together.get(map, map), []).append(map)
    placed = [
        Life(
            max(map.bytes for map in maps),
            min(lives[map].first for map in maps),
            max(lives[map].last for map in maps),
        )
        for maps in groups.values()
    ]
    needed = [scratch_bytes(step) for step in steps]
    placed += [Life(size, number, number) for number, size in enumerate(needed)]
    starts = offsets(placed, ALIGNMENT)
    for maps, start in zip(groups.values(), starts, strict=False):
        for map in maps:
            map.offset = start
    plan.scratch = starts[len(groups) :]
    plan.arena_bytes = -(-end_of(placed, starts) // ALIGNMENT) * ALIGNMENT


def _life(map: Map, steps: Sequence[Step], logits: Map) -> Life:
    writing = [number for number, step in enumerate(steps) if map in step.writes]
    reading = [number for number, step in enumerate(steps) if map in step.reads]
    last = max([*writing, *reading])
    is_kept = map.shared and not steps[last].shared
    return Life(map.bytes, min(writing), len(steps) - 1 if is_kept or map is logits else last)


def _in_place(steps: Sequence[Step], lives: dict[Map, Life]) -> dict[Map, Map]:
    """For maps that take the place of others, the first map that had it."""
    first: dict[Map, Map] = {}
    for number, step in enumerate(steps):
        reads = [*step.reads]
        # At the time of an action, those that have been read for the last time at its pixel.
        free = [*step.inputs] if is_pixel_by_pixel(step) else []
        for action in step.epilogue:
            if isinstance(action, AddMap | MultiplyMap):
                free.append(action.map)
            elif isinstance(action, Store):
                for map in free:
                    if (
                        map in lives
                        and lives[map].last == number
                        and reads.count(map) == 1
                        and _are_alike(map, action.map)
                    ):
                        first[action.map] = first.get(map, map)
                        free.remove(map)
                        break
    return first


def _are_alike(one: Map, other: Map) -> bool:
    """Whether two maps have the same shape and format."""
    fields = ("height", "width", "channels", "format")
    return all(getattr(one, field) == getattr(other, field) for field in fields)
