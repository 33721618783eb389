"""Every kind of step in C does what NumPy does, on plans that are made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.convert.targets.c.plan import (
    Action,
    Add,
    AddMap,
    BinaryConvolution,
    Clamp,
    Columns,
    Convolution,
    Elementwise,
    Map,
    Multiply,
    MultiplyMap,
    Plan,
    Pooling,
    PRelu,
    Step,
    Store,
    Term,
    Threshold,
    Value,
    Vector,
    Window,
)
from larq_ensemble.convert.targets.c.scratch import scratch_bytes
from larq_ensemble.convert.targets.c.source import c_sources, flash_bytes
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.metadata import EnsembleMetadata

from ....c_compiler import compile_c
from .execution import Execution
from .programs import Program

MEMBERS = 3


class Builder:
    """A plan whose maps each have a place of their own, so that all can be looked at."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        image = Map(6, 5, 3, "uint8", shared=True)
        self.plan = Plan(MEMBERS, image, Map(1, 1, 4, "float32", shared=False))

    def map(self, height: int, width: int, channels: int, format: str, shared: bool) -> Map:
        map_ = Map(height, width, channels, format, shared)  # type: ignore[arg-type]
        map_.offset = self.plan.arena_bytes
        self.plan.arena_bytes += -(-map_.bytes // 8) * 8
        return map_

    def normal(self, *shape: int, format: str = "float32", by_member: bool = False) -> Value:
        numbers = self.rng.normal(size=(MEMBERS, *shape) if by_member else shape)
        if format == "int8":
            numbers = np.clip(np.round(numbers * 50), -127, 127)
        elif format == "int4":
            numbers = np.clip(np.round(numbers * 3), -8, 7) * 2 + 1
        elif format == "signs":
            numbers = np.sign(numbers)
        elif format == "float16":
            numbers = numbers.astype(np.float16)
        data = numbers.astype(np.float32)
        return Value(data, format, "batch norm", by_member)  # type: ignore[arg-type]

    def add(self, step_type: type[Step], output: Map | None, *actions: Action, **fields) -> Map:
        """A step whose epilogue ends with a store; the shape is the output's."""
        if output is not None:
            actions = *actions, Store(output)
        (output, *_) = (a.map for a in reversed(actions) if isinstance(a, Store | Threshold))
        fields = {"channels": output.channels, **fields}
        step = step_type(
            height=output.height,
            width=output.width,
            epilogue=actions,
            shared=output.shared,
            layer=f"{step_type.__name__} {len(self.plan.steps)}",
            **fields,
        )
        self.plan.steps.append(step)
        return output

    def finished(self) -> Plan:
        plan = self.plan
        plan.logits.offset = plan.arena_bytes
        plan.arena_bytes += plan.logits.bytes
        vector = self.normal(4, by_member=True)
        ones = Value(np.ones(1, np.float32), "float32", "head")
        self.add(Vector, plan.logits, terms=(Term(ones, vector, vector),))
        plan.scratch = [plan.arena_bytes] * len(plan.steps)
        plan.arena_bytes += max(map(scratch_bytes, plan.steps))
        return plan


def plan_of_everything() -> Plan:
    build = Builder()
    pixels = build.map(6, 5, 3, "float32", True)
    scale = Value(np.array([1 / 100], np.float32), "float32", "image")
    offset = Value(np.array(-1, np.float32), "float32", "image")
    build.add(Elementwise, pixels, Multiply(scale), Add(offset), input=build.plan.image)
    sources = [_stem(build, pixels, format) for format in ("float32", "float16", "signs")]
    for source in sources:
        _convolutions(build, source)
        _poolings(build, source)
        _elementwise(build, source)
    _epilogues(build, sources[0])
    for shared in (True, False):
        _binary(build, sources[2], shared)
    _concatenation(build, sources[0])
    _columns(build, sources)
    _vectors(build)
    return build.finished()


def _stem(build: Builder, pixels: Map, format: str) -> Map:
    output = build.map(6, 5, 12, format, True)
    filters, window = build.normal(12, 3, 2, 3), Window(3, 2, top=1, left=1)
    return build.add(Convolution, output, input=pixels, filters=filters, window=window)


def _convolutions(build: Builder, source: Map) -> None:
    for format in ("float32", "float16", "int8", "signs"):
        for by_member in (False, True):
            # Seven filters: a four and three that are left. Strides, dilation, groups.
            build.add(
                Convolution,
                build.map(3, 2, 7, "float32", False),
                input=source,
                filters=build.normal(7, 2, 3, 12, format=format, by_member=by_member),
                window=Window(2, 3, 2, 2, 1, 1, 2, 1),
            )
        build.add(
            Convolution,
            build.map(6, 5, 18, "float32", False),
            input=source,
            filters=build.normal(18, 3, 3, 4, format=format),
            window=Window(3, 3, top=1, left=1),
            groups=3,
        )
        build.add(
            Convolution,
            build.map(4, 3, 24, "float32", False),
            input=source,
            filters=build.normal(24, 3, 3, 1, format=format, by_member=True),
            window=Window(3, 3),
            groups=12,
        )
        build.add(
            Convolution,
            build.map(3, 3, 4, "float32", True),
            input=source,
            filters=build.normal(4, 1, 1, 12, format=format),
            window=Window(1, 1, 2, 2),
        )


def _poolings(build: Builder, source: Map) -> None:
    window = Window(3, 2, 2, 1, 1, 0)
    kinds = ["max", "mean"] if source.format != "signs" else ["max"]
    for kind in kinds:
        for format in ("float32", "float16", "signs"):
            output = build.map(3, 5, 12, format, False)
            build.add(Pooling, output, input=source, window=window, kind=kind)


def _elementwise(build: Builder, source: Map) -> None:
    build.add(Elementwise, build.map(6, 5, 12, "float32", False), input=source)
    padded = build.map(9, 8, 5, "float16", False)
    build.add(Elementwise, padded, input=source, channel=7, top=1, left=2)
    part = build.map(2, 2, 12, "float32", True)
    build.add(Elementwise, part, input=source, top=-1, left=-1, stride_y=3, stride_x=2)


def _epilogues(build: Builder, source: Map) -> None:
    for format in ("float32", "float16", "int8", "int4", "signs"):
        for by_member in (False, True):
            values = [build.normal(12, format=format, by_member=by_member) for _ in range(3)]
            one = build.normal(1, format=format, by_member=by_member)
            build.add(
                Elementwise,
                build.map(6, 5, 12, "float32", False),
                Multiply(values[0]),
                Add(values[1]),
                PRelu(values[2]),
                Add(one),
                Clamp(-1.5, None),
                Clamp(None, 40.25),
                input=source,
            )
    other = build.add(Elementwise, build.map(6, 5, 12, "float16", True), input=source)
    pixel = build.add(
        Pooling,
        build.map(1, 1, 12, "float32", True),
        input=source,
        window=Window(6, 5),
        kind="mean",
    )
    signs = build.map(6, 5, 12, "signs", False)
    build.add(
        Elementwise,
        build.map(6, 5, 12, "float32", False),
        AddMap(other),
        Store(signs),
        MultiplyMap(pixel),
        MultiplyMap(other),
        AddMap(pixel),
        input=source,
    )
    in_place = build.add(Elementwise, build.map(6, 5, 12, "float32", False), input=source)
    twin = Map(6, 5, 12, "float32", False, offset=in_place.offset)
    build.add(Elementwise, twin, AddMap(in_place), input=source)


def _binary(build: Builder, source: Map, shared: bool) -> None:
    filters = build.normal(40, 3, 3, 12, format="signs", by_member=not shared)
    fields = {"input": source, "filters": filters, "window": Window(3, 3, top=1, left=1)}
    scale = build.normal(40, by_member=not shared)
    signs = build.map(6, 5, 40, "signs", shared)
    floats = build.map(6, 5, 40, "float32", shared)
    build.add(BinaryConvolution, floats, Multiply(scale), Add(scale), Store(signs), **fields)
    if not shared:
        low = build.rng.integers(-20, 20, (MEMBERS, 40)).astype(np.int16)
        limits = Value(low, "int16", "batch norm", by_member=True)
        for flips in (None, build.normal(40, format="signs", by_member=True)):
            output = build.map(6, 5, 40, "signs", False)
            threshold = Threshold(output, limits, flips)
            build.add(BinaryConvolution, None, threshold, pads_with_ones=True, **fields)


def _concatenation(build: Builder, source: Map) -> None:
    floats = build.map(6, 5, 20, "float16", False)
    for channel, channels in ((0, 8), (8, 12)):
        store = Store(floats, channel)
        build.add(Elementwise, None, store, input=source, channels=channels, channel=12 - channels)


def _columns(build: Builder, sources: list[Map]) -> None:
    orders = np.array([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 2, 0, 4, 1]], np.int16)
    of_member = Value(orders, "int16", "columns", by_member=True)
    of_all = Value(orders[1, :3], "int16", "columns")
    for source in (build.plan.image, *sources):
        output = build.map(6, 5, source.channels, "float32", False)
        build.add(Columns, output, input=source, columns=of_member)
        output = build.map(6, 3, source.channels, "float16", True)
        build.add(Columns, output, input=source, columns=of_all)


def _vectors(build: Builder) -> None:
    for format in ("int8", "int4"):
        terms = tuple(
            Term(
                build.normal(9, format=format, by_member=True),
                build.normal(9),
                build.normal(1),
            )
            for _ in range(2)
        )
        vector = build.add(Vector, build.map(1, 1, 9, "float32", False), terms=terms)
    build.add(Elementwise, build.map(1, 1, 9, "float32", False), Multiply(vector), input=vector)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Program]:
    plan = plan_of_everything()
    metadata = EnsembleMetadata(scheme="fusion", members=MEMBERS, classes=4, input_shape=(6, 5, 3))
    return plan, Program(tmp_path_factory.mktemp("steps"), plan, metadata)


def test_all_maps_equal_those_of_numpy(everything: tuple[Plan, Program]) -> None:
    plan, program = everything
    rng = np.random.default_rng(1)
    execution = Execution(plan)
    for member in (2, 0):
        image = rng.integers(0, 256, (6, 5, 3)).astype(np.uint8)
        execution.begin(image)
        expected = execution.member(member)
        np.testing.assert_allclose(program.logits(image, member), expected, rtol=1e-6)
        for step in plan.steps:
            for map_ in step.writes:
                got = numbers(map_, program.arena)
                want = numbers(map_, execution._arena)
                # Sums are added in another order; float16 may be rounded the other way.
                tolerance = 2e-3 if map_.format == "float16" else 1e-5
                largest = tolerance * max(1, np.abs(want).max())
                np.testing.assert_allclose(got, want, tolerance, largest, err_msg=step.layer)


def numbers(map_: Map, arena: np.ndarray) -> np.ndarray:
    """A map as floats or words."""
    assert map_.offset is not None
    data = arena[map_.offset : map_.offset + map_.bytes]
    if map_.format == "signs":
        bits = map_.height * map_.width * map_.pixel_bits
        return np.unpackbits(data, bitorder="little")[:bits]
    kind = {"float32": np.float32, "float16": np.float16}[map_.format]
    return data.view(kind).astype(np.float32)


def test_clang_has_no_warnings_either(tmp_path: Path) -> None:
    plan = plan_of_everything()
    metadata = EnsembleMetadata(
        scheme="voting", members=MEMBERS, classes=4, input_shape=(6, 5, 3), temperatures=(2, 1, 1)
    )
    for name, text in c_sources(plan, metadata).items():
        (tmp_path / name).write_text(text)
    more = ["-Wcast-align", "-Wcast-qual", "-Wshadow", "-Wundef", "-Wdouble-promotion"]
    compile_c(tmp_path, "ensemble.c", "-fsyntax-only", *more, name="clang")


def test_equal_constants_are_stored_once() -> None:
    build = Builder()
    output = build.map(6, 5, 3, "float32", True)
    first, second = (Value(np.arange(3, dtype=np.float32), "float32", "stem") for _ in range(2))
    build.add(Elementwise, output, Multiply(first), Add(second), input=build.plan.image)
    assert flash_bytes(build.finished())["stem"] == 3 * 4


def test_what_no_kernel_can_do_is_an_error_with_the_layer() -> None:
    build = Builder()
    output = build.map(6, 5, 3, "float32", True)
    wrong = build.normal(2)
    build.add(Elementwise, output, Multiply(wrong), input=build.plan.image)
    with pytest.raises(EnsembleError, match="Layer 'Elementwise 0' needs 2 numbers for 3 channels"):
        flash_bytes(build.finished())
