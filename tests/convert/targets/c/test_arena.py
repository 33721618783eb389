"""Where maps lie, computed by hand."""

from __future__ import annotations

import pytest

from larq_ensemble.convert.targets.c import arena
from larq_ensemble.convert.targets.c.plan import (
    AddMap,
    Elementwise,
    Map,
    MapFormat,
    Plan,
    Pooling,
    Step,
    Store,
    Window,
)
from larq_ensemble.convert.targets.c.scheduling import scheduled

IMAGE = Map(4, 4, 1, "uint8", shared=True)


def floats(size: int = 4, channels: int = 1, *, shared: bool = False) -> Map:
    return Map(size, size, channels, "float32", shared)


def step(source: Map, *actions: Store | AddMap, shared: bool = False) -> Elementwise:
    map = actions[-1].map
    return Elementwise(
        height=map.height,
        width=map.width,
        channels=map.channels,
        epilogue=actions,
        shared=shared,
        layer="",
        input=source,
    )


def pooling(source: Map, target: Map, window: Window) -> Pooling:
    return Pooling(
        height=target.height,
        width=target.width,
        channels=target.channels,
        epilogue=(Store(target),),
        shared=False,
        layer="",
        input=source,
        window=window,
        kind="max",
    )


def placed(*steps: Step, scratch: int = 0) -> Plan:
    plan = Plan(2, IMAGE, [*steps[-1].writes][-1], [*steps])
    arena.place(plan, lambda step: scratch)
    return plan


def test_a_sum_takes_the_place_of_its_shortcut() -> None:
    x, other, total = floats(), floats(), floats()
    plan = placed(
        step(IMAGE, Store(x)), step(IMAGE, Store(other)), step(other, AddMap(x), Store(total))
    )
    assert total.offset in (x.offset, other.offset)
    assert plan.arena_bytes == 2 * 64


def test_a_map_that_is_read_again_keeps_its_place() -> None:
    x, other, total, last = (floats() for _ in range(4))
    placed(
        step(IMAGE, Store(x)),
        step(IMAGE, Store(other)),
        step(other, AddMap(x), Store(total)),
        step(total, AddMap(x), Store(last)),
    )
    assert total.offset == other.offset != x.offset


def test_what_members_share_stays() -> None:
    trunk, x, logits = floats(shared=True), floats(), floats(1)
    plan = placed(
        step(IMAGE, Store(trunk), shared=True),
        step(trunk, Store(x)),
        pooling(x, logits, Window(4, 4)),
    )
    assert x.offset != trunk.offset
    assert plan.arena_bytes == 2 * 64


@pytest.mark.parametrize(
    ("window", "size", "total"),
    [
        (Window(2, 2, 2, 2), 2, 64),  # writes behind what it reads
        (Window(3, 3, top=1, left=1), 4, 128),  # the row above is read again
    ],
)
def test_a_pooling_takes_the_place_of_its_input(window: Window, size: int, total: int) -> None:
    x, pooled = floats(), floats(size)
    assert placed(step(IMAGE, Store(x)), pooling(x, pooled, window)).arena_bytes == total


@pytest.mark.parametrize(("format", "total"), [("signs", 64), ("float32", 64), ("float16", 64)])
def test_a_map_of_fewer_bits_takes_the_place_of_floats(format: MapFormat, total: int) -> None:
    x, y = floats(), Map(4, 4, 1, format, shared=False)
    assert placed(step(IMAGE, Store(x)), step(x, Store(y))).arena_bytes == total


def test_scratch_memory_overlaps_no_map_of_its_step() -> None:
    x, y = floats(), floats()
    plan = placed(step(IMAGE, Store(x)), step(x, Store(y)), scratch=24)
    assert plan.scratch[1] >= 64
    assert plan.arena_bytes == 64 + 24


def test_a_step_that_frees_much_runs_early() -> None:
    x, bits, wide, pooled = floats(), Map(4, 4, 1, "signs", shared=False), floats(), floats(1)
    last = floats(1)
    steps = [
        step(IMAGE, Store(x), Store(bits)),
        step(bits, Store(wide)),
        pooling(x, pooled, Window(4, 4)),
        pooling(wide, last, Window(4, 4)),
        step(last, AddMap(pooled), Store(floats(1))),
    ]
    order = scheduled(steps, [*steps[-1].writes][-1])
    assert [steps.index(step) for step in order] == [0, 2, 1, 3, 4]
