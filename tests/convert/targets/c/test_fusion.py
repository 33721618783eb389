"""Which steps become one, by hand."""

from __future__ import annotations

import numpy as np

from larq_ensemble.convert.targets.c.fusion import fuse
from larq_ensemble.convert.targets.c.plan import (
    Action,
    AddMap,
    Clamp,
    Elementwise,
    Map,
    Multiply,
    Pooling,
    Step,
    Store,
    Value,
    Window,
)

SCALE = Multiply(Value(np.array([2], np.float32), "float32", "batch norm"))
RELU = Clamp(0, None)


def floats(name: str) -> Map:
    return Map(4, 4, 1, "float32", shared=False, name=name)


IMAGE = Map(4, 4, 1, "uint8", shared=True)
FORM = {"height": 4, "width": 4, "channels": 1, "shared": False}


def pooling(source: Map, target: Map) -> Step:
    return Pooling(
        **FORM, epilogue=(Store(target),), layer="", input=source, window=Window(1, 1), kind="max"
    )


def change(source: Map, target: Map, *actions: Action) -> Step:
    return Elementwise(**FORM, epilogue=(*actions, Store(target)), layer="", input=source)


def epilogues(*steps: Step) -> list[tuple[Action, ...]]:
    return [step.epilogue for step in fuse(steps, [*steps[-1].writes][-1])]


def test_what_follows_a_step_becomes_its_epilogue() -> None:
    a, b, c = map(floats, "abc")
    found = epilogues(pooling(IMAGE, a), change(a, b, SCALE), change(b, c, RELU))
    assert found == [(SCALE, RELU, Store(c))]


def test_a_map_that_others_read_is_stored_on_the_way() -> None:
    a, b, c, d = map(floats, "abcd")
    steps = pooling(IMAGE, a), change(a, b, RELU), pooling(b, c), change(c, d, AddMap(a))
    assert epilogues(*steps) == [(Store(a), RELU, Store(b)), (AddMap(a), Store(d))]


def test_a_step_waits_for_a_map_that_it_adds() -> None:
    a, b, c = map(floats, "abc")
    steps = pooling(IMAGE, a), pooling(IMAGE, b), change(a, c, AddMap(b))
    assert epilogues(*steps) == [(Store(b),), (AddMap(b), Store(c))]


def test_a_step_that_others_wait_for_does_not_wait() -> None:
    a, b, c = map(floats, "abc")
    steps = pooling(IMAGE, a), pooling(a, b), change(a, c, AddMap(b))
    assert epilogues(*steps) == [(Store(a),), (Store(b),), (AddMap(b), Store(c))]


def test_what_members_share_is_no_part_of_a_member() -> None:
    shared = Map(4, 4, 1, "float32", shared=True)
    b = floats("b")
    trunk = Pooling(
        **{**FORM, "shared": True}, epilogue=(Store(shared),), layer="", input=IMAGE,
        window=Window(1, 1), kind="max",
    )  # fmt: skip
    assert epilogues(trunk, change(shared, b, SCALE)) == [(Store(shared),), (SCALE, Store(b))]


def test_a_map_that_is_cut_is_another_step() -> None:
    a, b = floats("a"), Map(2, 4, 1, "float32", shared=False)
    cut = Elementwise(**{**FORM, "height": 2}, epilogue=(Store(b),), layer="", input=a, stride_y=2)
    assert epilogues(pooling(IMAGE, a), cut) == [(Store(a),), (Store(b),)]


def test_what_reads_all_of_a_concatenation_is_another_step() -> None:
    a = floats("a")
    joined, c = (Map(4, 4, 2, "float32", shared=False) for _ in range(2))
    parts = [
        Elementwise(**FORM, epilogue=(Store(joined, channel),), layer="", input=a)
        for channel in (0, 1)
    ]
    after = Elementwise(
        **{**FORM, "channels": 2}, epilogue=(RELU, Store(c)), layer="", input=joined
    )
    expected = [(Store(joined, 0), Store(joined, 1)), (RELU, Store(c))]
    assert epilogues(pooling(IMAGE, a), *parts, after) == expected


def test_a_map_that_is_added_to_itself_is_stored_before() -> None:
    a, b = map(floats, "ab")
    found = epilogues(pooling(IMAGE, a), change(a, b, AddMap(a)))
    assert found == [(Store(a),), (AddMap(a), Store(b))]
