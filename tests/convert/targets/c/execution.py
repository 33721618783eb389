"""Runs a plan with NumPy on one array of bytes, as the C program runs it in its arena.

It follows the descriptions in `plan`, and shares no code with what makes plans or C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from larq_ensemble.convert.targets.c.plan import (
    Action,
    Add,
    AddMap,
    Apply,
    BinaryConvolution,
    Clamp,
    Columns,
    Convolution,
    Elementwise,
    Map,
    Multiply,
    MultiplyMap,
    Numbers,
    Plan,
    Pooling,
    PRelu,
    Step,
    Store,
    Threshold,
    Value,
    Vector,
    Window,
)

_TYPES = {"float32": np.float32, "float16": np.float16, "uint8": np.uint8}
_FUNCTIONS = {
    "abs": np.abs,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "round": np.round,
    "tanh": np.tanh,
}


class Execution:
    """The arena of a plan.

    Before a step runs, its scratch memory and what it writes is filled with garbage, but for maps
    that take the place of what it reads, for which the order of pixels is checked. So a step that
    reads what another one overwrote gives wrong numbers.

    # Arguments
        plan: with its memory planned.
        scratch_bytes: for which it was planned.
    """

    def __init__(self, plan: Plan, scratch_bytes: Callable[[Step], int] = lambda step: 0) -> None:
        self._plan, self._scratch_bytes = plan, scratch_bytes
        self._arena = np.full(plan.arena_bytes, 0xA5, np.uint8)
        self._image: np.ndarray | None = None
        for step in plan.steps:
            for map in step.writes:
                for read in step.reads:
                    assert not _overlap(map, read) or _comes_behind(step, map, read)

    def begin(self, image: np.ndarray) -> None:
        """Runs what the members share.

        # Arguments
            image: uint8 `[height, width, channels]`.
        """
        self._image = image
        self._run(0, shared=True)

    def member(self, member: int) -> np.ndarray:
        """A member's logits, float32 `[classes]`."""
        self._run(member, shared=False)
        return self._read(self._plan.logits).reshape(-1).copy()

    def _run(self, member: int, *, shared: bool) -> None:
        for number, step in enumerate(self._plan.steps):
            if step.shared == shared:
                self._spoil(step, number)
                x = self._sums(step, member)
                for action in step.epilogue:
                    x = self._act(x, action, member)

    def _spoil(self, step: Step, number: int) -> None:
        for map in step.writes:
            if any(map in earlier.writes for earlier in self._plan.steps[:number]):
                continue  # a further part of a concatenation
            if not any(_overlap(map, read) for read in step.reads):
                self._bytes(map)[:] = 0xA5
        scratch = self._plan.scratch[number]
        self._arena[scratch : scratch + self._scratch_bytes(step)] = 0xA5

    def _bytes(self, map: Map) -> np.ndarray:
        assert map.offset is not None
        assert map.offset + map.bytes <= self._plan.arena_bytes
        assert map.offset % 8 == 0
        return self._arena[map.offset : map.offset + map.bytes]

    def _read(self, map: Map) -> np.ndarray:
        """The numbers of a map, float32 `[height, width, channels]`."""
        shape = map.height, map.width, map.channels
        if map.format == "uint8":
            assert self._image is not None
            assert map is self._plan.image
            return self._image.astype(np.float32)
        data = self._bytes(map)
        if map.format != "signs":
            return data.view(_TYPES[map.format]).reshape(shape).astype(np.float32)
        bits = np.unpackbits(data, bitorder="little")[: map.height * map.width * map.pixel_bits]
        bits = bits.reshape(map.height, map.width, map.pixel_bits)
        assert not bits[..., map.channels :].any()
        return np.where(bits[..., : map.channels], np.float32(-1), np.float32(1))

    def _write(self, map: Map, channel: int, numbers: np.ndarray) -> None:
        if map.format != "signs":
            whole = self._bytes(map).view(_TYPES[map.format])
            whole = whole.reshape(map.height, map.width, map.channels)
            whole[..., channel : channel + numbers.shape[2]] = numbers.reshape(
                map.height, map.width, -1
            )
            return
        assert channel == 0
        bits = np.zeros((map.height * map.width, map.pixel_bits), np.uint8)
        bits[:, : map.channels] = (numbers < 0).reshape(len(bits), -1)
        packed = np.packbits(bits, bitorder="little")
        self._bytes(map)[:] = 0
        self._bytes(map)[: packed.size] = packed

    def _numbers(self, numbers: Numbers, member: int) -> np.ndarray:
        if isinstance(numbers, Map):
            return self._read(numbers)
        return _of_member(numbers, member)

    def _act(self, x: np.ndarray, action: Action, member: int) -> np.ndarray:
        if isinstance(action, Multiply):
            return x * self._numbers(action.value, member)
        if isinstance(action, Add):
            return x + self._numbers(action.value, member)
        if isinstance(action, PRelu):
            return np.where(x < 0, x * self._numbers(action.value, member), x)
        if isinstance(action, Clamp):
            return np.clip(x, action.low, action.high)
        if isinstance(action, Apply):
            return _FUNCTIONS[action.function](x)
        if isinstance(action, AddMap):
            return x + self._read(action.map)
        if isinstance(action, MultiplyMap):
            return x * self._read(action.map)
        if isinstance(action, Store):
            self._write(action.map, action.channel, x)
            return x
        assert isinstance(action, Threshold)
        bits = x < _of_member(action.limits, member)
        if action.flips is not None:
            bits = bits != (_of_member(action.flips, member) < 0)
        self._write(action.map, 0, np.where(bits, np.float32(-1), np.float32(1)))
        return x

    def _sums(self, step: Step, member: int) -> np.ndarray:
        if isinstance(step, Vector):
            total = None
            for term in step.terms:
                parts = (
                    _of_member(part, member) for part in (term.steps, term.factor, term.middle)
                )
                steps, factor, middle = parts
                number = np.broadcast_to(steps * factor + middle, step.channels)
                total = number if total is None else total + number
            assert total is not None
            return total.reshape(1, 1, -1)
        (input,) = step.inputs
        x = self._read(input)
        if isinstance(step, Elementwise):
            return _moved(x, step)
        if isinstance(step, Columns):
            return x[:, _of_member(step.columns, member)]
        shape = step.height, step.width
        if isinstance(step, Pooling):
            patches = np.stack([*_taps(x, step.window, shape, np.nan)])
            reduce = np.nanmax if step.kind == "max" else np.nanmean
            return reduce(patches, axis=0).astype(np.float32)
        assert isinstance(step, BinaryConvolution | Convolution)
        outside = 1 if isinstance(step, BinaryConvolution) and step.pads_with_ones else 0
        filters = _of_member(step.filters, member)
        total = np.zeros((*shape, step.channels), np.float32)
        for tap, pixels in enumerate(_taps(x, step.window, shape, outside)):
            weights = filters[:, tap // step.window.width, tap % step.window.width]
            parts = zip(
                np.split(pixels, step.groups, axis=2), np.split(weights, step.groups), strict=True
            )
            total += np.concatenate([some @ matrix.T for some, matrix in parts], axis=2)
        return total


def _of_member(value: Value, member: int) -> np.ndarray:
    data = value.data[member] if value.by_member else value.data
    _check_format(value)
    return data


def _check_format(value: Value) -> None:
    """That the numbers can be stored in their format."""
    data = value.data
    if value.format == "signs":
        assert (np.abs(data) == 1).all()
    elif value.format == "int8":
        assert (data.astype(np.int8) == data).all()
    elif value.format == "int4":
        assert (np.abs(data) <= 15).all()
        assert (data % 2 == 1).all()
    elif value.format == "float16":
        assert (data.astype(np.float16) == data).all()
    else:
        assert data.dtype == value.format


def _taps(
    x: np.ndarray, window: Window, shape: tuple[int, int], outside: float
) -> Iterator[np.ndarray]:
    """What each tap of a window reads, `[height, width, channels]`."""
    for ky in range(window.height):
        for kx in range(window.width):
            ys = np.arange(shape[0]) * window.stride_y - window.top + ky * window.dilation_y
            xs = np.arange(shape[1]) * window.stride_x - window.left + kx * window.dilation_x
            inside = ((ys >= 0) & (ys < x.shape[0]))[:, np.newaxis] & (xs >= 0) & (xs < x.shape[1])
            pixels = x[np.clip(ys, 0, x.shape[0] - 1)][:, np.clip(xs, 0, x.shape[1] - 1)]
            yield np.where(inside[..., np.newaxis], pixels, np.float32(outside))


def _moved(x: np.ndarray, step: Elementwise) -> np.ndarray:
    window = Window(1, 1, step.stride_y, step.stride_x, step.top, step.left)
    (pixels,) = _taps(x, window, (step.height, step.width), 0)
    return pixels[..., step.channel : step.channel + step.channels]


def _overlap(one: Map, other: Map) -> bool:
    if one.offset is None or other.offset is None:
        return False
    return one.offset < other.offset + other.bytes and other.offset < one.offset + one.bytes


def _comes_behind(step: Step, written: Map, read: Map) -> bool:
    """Whether no pixel overwrites what a later one reads, pixel by pixel."""
    assert written.offset is not None
    assert read.offset is not None
    height, width = step.height, step.width
    numbers = np.arange(read.height * read.width, dtype=np.float64)
    numbers = numbers.reshape(read.height, read.width, 1)
    if read not in step.inputs:
        if (read.height, read.width) != (height, width):
            return False
        window = Window(1, 1)
    elif isinstance(step, Elementwise):
        window = Window(1, 1, step.stride_y, step.stride_x, step.top, step.left)
    else:
        assert isinstance(step, Convolution | Pooling)
        window = step.window
    taps = np.stack([*_taps(numbers, window, (height, width), np.inf)])
    first = np.floor(taps.min(axis=0).reshape(-1) * _pixel_bits(read) / 8) + read.offset
    for pixel in range(height * width - 1):
        end = written.offset + -(-(pixel + 1) * _pixel_bits(written) // 32) * 4
        if end > first[pixel + 1 :].min():
            return False
    return True


def _pixel_bits(map: Map) -> int:
    return map.pixel_bits if map.format == "signs" else map.channels * map.number_bits
