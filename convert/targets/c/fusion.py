"""Lets a step go on with what it computed, instead of storing it for the next step to read.

    BinaryConvolution -> store m;   m -> PRelu -> store n;   n -> + k -> store s;   s -> sign

becomes one step with the epilogue `PRelu, AddMap(k), Store(s as float), Store(s as signs)`. A map
is stored only if somebody else reads it, too.

A step takes over what follows if its last value is what the next one reads, and if that reads pixel
by pixel. The two become one where the first was; or where the second was, if that adds a map which
is computed between them.

Exact: the same operations in the same order. With float16 maps, x goes on unrounded.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from larq_ensemble.convert.targets.c.plan import (
    Action,
    Convolution,
    Elementwise,
    Map,
    Step,
    Store,
    Threshold,
    Window,
)


def absorb_slices(steps: Sequence[Step]) -> list[Step]:
    """Lets 1x1 convolutions read every other pixel themselves, instead of a map of these.

    The slices are left for `without_dead_stores`.
    """
    slices = {
        map: step
        for step in steps
        if isinstance(step, Elementwise) and _is_slice(step)
        for map in step.writes
    }
    return [
        _with_strides(step, slices[step.input])
        if isinstance(step, Convolution) and step.input in slices and _reads_pixels(step)
        else step
        for step in steps
    ]


def fuse(steps: Sequence[Step], result: Map) -> list[Step]:
    """The steps with fewer maps between them.

    # Arguments
        steps: in order; each map is written once, or in parts, before it is read.
        result: the map that is needed in the end.
    """
    fused = list(steps)
    number = 0
    while number < len(fused):
        place = _predecessor(fused, number)
        if place is None or not _merge(fused, place, number):
            number += 1
        # Otherwise the next step has moved to this number, or this one is a fused one.
    return without_dead_stores(fused, result)


def without_dead_stores(steps: Sequence[Step], result: Map) -> list[Step]:
    """The steps without the stores of maps that nobody reads, and without steps for nothing."""
    kept = list(steps)
    while True:
        reads = Counter(map for step in kept for map in step.reads)
        reads[result] += 1
        slim = [
            dataclasses.replace(step, epilogue=_without(step, reads))
            for step in kept
            if any(reads[map] for map in step.writes)
        ]
        if slim == kept:
            return kept
        kept = slim


def is_pixel_by_pixel(step: Step) -> bool:
    """Whether a step only changes the numbers of a map of floats or signs, each by itself."""
    if not isinstance(step, Elementwise):
        return False
    map = step.input
    places = step.channel, step.top, step.left, step.stride_y - 1, step.stride_x - 1
    shape = step.height, step.width, step.channels
    return not any(places) and shape == (map.height, map.width, map.channels)


def _is_slice(step: Elementwise) -> bool:
    """Whether a map is nothing but pixels of the input, with all their channels, as floats."""
    (output,) = step.writes
    return (
        step.epilogue == (Store(output),)
        and step.input.channels == step.channels == output.channels
        and step.input.format != "uint8"
        and output.format == "float32"
    )


def _reads_pixels(step: Convolution) -> bool:
    """Whether a convolution reads a pixel for each of its own, and no margin of zeros."""
    window, map = step.window, step.input
    last = (step.height - 1) * window.stride_y, (step.width - 1) * window.stride_x
    return (
        (window.height, window.width, window.top, window.left) == (1, 1, 0, 0)
        and last[0] < map.height
        and last[1] < map.width
    )


def _with_strides(step: Convolution, slice: Elementwise) -> Convolution:
    window = Window(
        1,
        1,
        step.window.stride_y * slice.stride_y,
        step.window.stride_x * slice.stride_x,
        step.window.top * slice.stride_y + slice.top,
        step.window.left * slice.stride_x + slice.left,
    )
    return dataclasses.replace(step, input=slice.input, window=window)


def _without(step: Step, reads: Counter[Map]) -> tuple[Action, ...]:
    epilogue = [
        action
        for action in step.epilogue
        if not isinstance(action, Store | Threshold) or reads[action.map]
    ]
    while not isinstance(epilogue[-1], Store | Threshold):
        epilogue.pop()
    return tuple(epilogue)


def _predecessor(steps: Sequence[Step], number: int) -> int | None:
    """The step whose last value a step reads, and nothing else; `None` if there is none."""
    step = steps[number]
    if not is_pixel_by_pixel(step):
        return None
    assert isinstance(step, Elementwise)
    writers = [place for place, other in enumerate(steps) if step.input in other.writes]
    if len(writers) != 1:
        return None
    (place,) = writers
    if (steps[place].shared, steps[place].channels) != (step.shared, step.channels):
        return None
    for action in reversed(steps[place].epilogue):
        if not isinstance(action, Store):
            return None
        if action == Store(step.input) and step.input.format == "float32":
            return place
    return None


def _merge(steps: list[Step], first: int, second: int) -> bool:
    """Makes one step of two, if the maps that it reads are there where it stands."""
    earlier, later = steps[first], steps[second]
    fused = dataclasses.replace(earlier, epilogue=(*earlier.epilogue, *later.epilogue))
    # Its input comes first, and again if it is added to itself.
    added = set([*later.reads][1:])
    if not added.isdisjoint(earlier.writes):
        return False
    if all(added.isdisjoint(step.writes) for step in steps[first:second]):
        steps[first] = fused
        del steps[second]
        return True
    if any(not set(earlier.writes).isdisjoint(step.reads) for step in steps[first + 1 : second]):
        return False
    steps[second] = fused
    del steps[first]
    return True
