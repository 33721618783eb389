"""What the C program does: maps, values in flash, and steps, each one loop nest.

A file's graphs become one `Plan`. It is written for any member: the filters are in flash once, and
a value that the members have of their own is a `Value` with a row for each. Everything is laid out
before a line of C is written: which step reads which map, and where each map lies in the arena.

A step computes the sums of a map pixel by pixel (a convolution, a pooling, or just a map that is
there), and its epilogue says what happens to each sum before it reaches memory: it is scaled,
shifted, added to another map, stored, and turned into a bit. All floats are computed as float32, in
the order of the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

#: How a map is stored: as IEEE floats of 32 or 16 bits, as signs, a bit each, or as pixels.
MapFormat = Literal["float32", "float16", "signs", "uint8"]
#: Functions that C's library has, or nearly.
Function = Literal["abs", "logistic", "round", "tanh"]
#: How a value is stored in flash. "signs": a bit each, set for -1. "int4": odd integers from -15 to
#: 15, as (x + 15) / 2, two a byte, the first in the low bits.
ValueFormat = Literal["float32", "float16", "int8", "int4", "int16", "signs"]
#: Bits that a number takes.
BITS: Mapping[MapFormat | ValueFormat, int] = {
    "float32": 32,
    "float16": 16,
    "int16": 16,
    "int8": 8,
    "uint8": 8,
    "int4": 4,
    "signs": 1,
}


@dataclass(eq=False)
class Map:
    """What a step computes, in the arena: `height x width` pixels of `channels`.

    Floats lie in the order [y, x, channel]. Signs are bits in the same order, the lowest bit of a
    word first, set where the number is below 0 (so not for 0, -0 and NaN). A pixel takes
    `pixel_bits`, and unused bits are 0.

    # Arguments
        height, width, channels: its shape. A vector is a map of one pixel.
        format: how it is stored.
        shared: whether `begin` computes it for all members.
        name: of the tensor it came from, for comments in the C source.
        offset: bytes from the start of the arena; `None` until memory is planned.
    """

    height: int
    width: int
    channels: int
    format: MapFormat
    shared: bool
    name: str = ""
    offset: int | None = None

    @property
    def pixel_bits(self) -> int:
        """Bits from one pixel of signs to the next: 8, 16 or a multiple of 32."""
        for bits in (8, 16):
            if self.channels <= bits:
                return bits
        return -(-self.channels // 32) * 32

    @property
    def number_bits(self) -> int:
        """Bits of a number."""
        return BITS[self.format]

    @property
    def bytes(self) -> int:
        """Its size in the arena; signs end with a whole word."""
        pixels = self.height * self.width
        if self.format == "signs":
            return -(-pixels * self.pixel_bits // 32) * 4
        return pixels * self.channels * self.number_bits // 8


@dataclass(eq=False)
class Value:
    """Numbers in flash: filters, or a number a channel.

    # Arguments
        data: `[...]`, or if `by_member`, `[members, ...]`. float32, also if it is stored as
            float16, int8 or int4 (then whole numbers); int16 for thresholds and columns; signs as
            +1, -1.
        format: how it is stored.
        purpose: what the report counts it as: "binary filters", "stem", "shortcuts", "batch norm",
            "activations", "head" and so on.
        by_member: whether each member has its own.
        name: of the tensor it came from.
    """

    data: np.ndarray
    format: ValueFormat
    purpose: str
    by_member: bool = False
    name: str = ""

    @property
    def bytes(self) -> int:
        """Its size in flash, without padding between rows."""
        return -(-self.data.size * BITS[self.format] // 8)


#: A number a channel: in flash, or what a `Vector` computed.
Numbers = Value | Map

# What an epilogue does to the number x of channel c of pixel p, in this order.


@dataclass(frozen=True)
class Multiply:
    """`x = x * value[c]`; a value of one number stands for all channels."""

    value: Numbers


@dataclass(frozen=True)
class Add:
    """`x = x + value[c]`."""

    value: Numbers


@dataclass(frozen=True)
class PRelu:
    """`x = x < 0 ? x * value[c] : x`."""

    value: Numbers


@dataclass(frozen=True)
class Clamp:
    """`x = min(max(x, low), high)`; `None`: no bound."""

    low: float | None
    high: float | None


@dataclass(frozen=True)
class Apply:
    """`x = function(x)`; "round" goes to the nearest whole number, of two to the even one."""

    function: Function


@dataclass(frozen=True)
class AddMap:
    """`x = x + map[p, c]`, of a map of floats; one of one pixel stands for all pixels."""

    map: Map


@dataclass(frozen=True)
class MultiplyMap:
    """`x = x * map[p, c]`, of a map of floats; a map of one pixel stands for all pixels."""

    map: Map


@dataclass(frozen=True)
class Store:
    """`map[p, c] = x`: as a float, or the bit of its sign; x goes on unchanged.

    # Arguments
        map: has as many pixels as the step computes.
        channel: of the map, for channel 0 of the step: more than 0 for a part of a concatenation.
    """

    map: Map
    channel: int = 0


@dataclass(frozen=True)
class Threshold:
    """`bit[p, c] = (sum < limit[c]) != flip[c]`, for a sum that is an integer: the first and only
    step of an epilogue.

    # Arguments
        map: of signs.
        limits: int16 `[channels]`.
        flips: signs `[channels]`: -1 where the bit is the other one; `None`: nowhere.
    """

    map: Map
    limits: Value
    flips: Value | None


Action = Multiply | Add | PRelu | Clamp | Apply | AddMap | MultiplyMap | Store | Threshold


@dataclass(frozen=True)
class Window:
    """Where the taps of a convolution or of a pooling lie.

    Output pixel (y, x) reads the input at `(y * stride_y - top + ky * dilation_y, ...)`. The
    padding at the bottom and on the right follows from the shapes.
    """

    height: int
    width: int
    stride_y: int = 1
    stride_x: int = 1
    top: int = 0
    left: int = 0
    dilation_y: int = 1
    dilation_x: int = 1


@dataclass(frozen=True, kw_only=True)
class Step:
    """One loop nest over the pixels of its output, row by row.

    It reads all that a pixel needs before it writes the pixel. So a map may take the place of one
    that is read, if no later pixel needs what is overwritten (not for `BinaryConvolution`).

    # Arguments
        height, width, channels: the shape of what it computes.
        epilogue: what happens to each number; ends with a `Store` or a `Threshold`.
        shared: whether `begin` runs it.
        layer: the name that an error or a comment gives.
    """

    height: int
    width: int
    channels: int
    epilogue: tuple[Action, ...]
    shared: bool
    layer: str

    @property
    def inputs(self) -> tuple[Map, ...]:
        """The maps that the sums are computed from."""
        raise NotImplementedError

    @property
    def reads(self) -> Iterator[Map]:
        """All maps that it reads."""
        yield from self.inputs
        for action in self.epilogue:
            if isinstance(action, AddMap | MultiplyMap):
                yield action.map
            elif isinstance(action, Multiply | Add | PRelu) and isinstance(action.value, Map):
                yield action.value

    @property
    def values(self) -> Iterator[Value]:
        """All values that it reads."""
        for action in self.epilogue:
            if isinstance(action, Multiply | Add | PRelu) and isinstance(action.value, Value):
                yield action.value
            elif isinstance(action, Threshold):
                yield action.limits
                if action.flips is not None:
                    yield action.flips

    @property
    def writes(self) -> Iterator[Map]:
        """All maps that it writes."""
        for action in self.epilogue:
            if isinstance(action, Store | Threshold):
                yield action.map


@dataclass(frozen=True, kw_only=True)
class MapStep(Step):
    """A step whose sums are computed from one map, `input`."""

    input: Map

    @property
    def inputs(self) -> tuple[Map, ...]:
        return (self.input,)


@dataclass(frozen=True, kw_only=True)
class FilterStep(MapStep):
    """A step whose sums are of products with filters: `x = sum of a * w` over a window."""

    filters: Value
    window: Window
    groups: int = 1

    @property
    def values(self) -> Iterator[Value]:
        yield self.filters
        yield from super().values


@dataclass(frozen=True, kw_only=True)
class BinaryConvolution(FilterStep):
    """`x = sum of a * w` over the window, of signs: an integer.

    # Arguments
        input: signs.
        filters: signs `[channels, window.height, window.width, input.channels / groups]`.
        pads_with_ones: outside the map a is +1; otherwise such products don't count.
        groups: input and output channels are split into as many parts.
    """

    pads_with_ones: bool = False


@dataclass(frozen=True, kw_only=True)
class Convolution(FilterStep):
    """`x = sum of a * w` over the window, of floats; outside the map a is 0.

    A linear layer is a convolution of a map of one pixel. If `groups` is the number of input
    channels, it is a depthwise convolution.

    # Arguments
        input: floats or signs (+1 and -1).
        filters: `[channels, window.height, window.width, input.channels / groups]`, in any format.
    """


@dataclass(frozen=True, kw_only=True)
class Pooling(MapStep):
    """The mean or the largest of the numbers of a channel in the window, without those outside.

    # Arguments
        input: floats, or for "max" signs: -1 if all are.
    """

    window: Window
    kind: Literal["mean", "max"]


@dataclass(frozen=True, kw_only=True)
class Elementwise(MapStep):
    """`x = input[p, c]`: floats, signs as +1 and -1, or pixels from 0 to 255.

    # Arguments
        channel: the first channel of the input that is read.
        top, left: x is 0 outside the input, which starts here: padding, or if negative, a slice.
        stride_y, stride_x: pixels of the input from one to the next.
    """

    channel: int = 0
    top: int = 0
    left: int = 0
    stride_y: int = 1
    stride_x: int = 1


@dataclass(frozen=True, kw_only=True)
class Columns(MapStep):
    """`x = input[y, columns[x], c]`: columns of a map in another order.

    # Arguments
        input: as for `Elementwise`.
        columns: int16 `[width]`.
    """

    columns: Value

    @property
    def values(self) -> Iterator[Value]:
        yield self.columns
        yield from super().values


@dataclass(frozen=True)
class Term:
    """`factor[c] * steps[c] + middle[c]`, rounded twice: a number of few bits."""

    steps: Value
    factor: Value
    middle: Value


@dataclass(frozen=True, kw_only=True)
class Vector(Step):
    """`x = terms[0] + terms[1] + ...`, from left to right: a number a channel of one pixel.

    Members' values in the precision "compact" take few bits, and so do the sums of them that
    steps add: a step gets its vector right before it runs.
    """

    terms: tuple[Term, ...]

    @property
    def inputs(self) -> tuple[Map, ...]:
        return ()

    @property
    def values(self) -> Iterator[Value]:
        for term in self.terms:
            yield from (term.steps, term.factor, term.middle)
        yield from super().values


@dataclass
class Plan:
    """A program for all members of an ensemble.

    # Arguments
        members: M.
        image: the pixels, uint8; they aren't in the arena but where the caller has them.
        logits: the last map, float32, a number a class. If it is shared, `begin` computes all, and
            members only give its numbers: so it is with one member.
        steps: in order; those of `begin` come first.
        scratch: for each step, where in the arena its kernel's scratch memory begins; set when
            memory is planned.
        arena_bytes: of maps and the kernels' scratch; set when memory is planned.
    """

    members: int
    image: Map
    logits: Map
    steps: list[Step] = field(default_factory=list)
    scratch: list[int] = field(default_factory=list)
    arena_bytes: int = 0

    @property
    def classes(self) -> int:
        """The number of logits."""
        return self.logits.height * self.logits.width * self.logits.channels

    @property
    def maps(self) -> list[Map]:
        """All maps in the arena, in the order in which they are written."""
        return list(dict.fromkeys(written for step in self.steps for written in step.writes))
