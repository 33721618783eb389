"""Epilogues: what happens to the sums of a pixel, as one loop over its channels."""

from __future__ import annotations

from collections.abc import Mapping

from larq_ensemble.convert.targets.c.constants import float_literal
from larq_ensemble.convert.targets.c.parts import MAP_TYPES, Parts, element
from larq_ensemble.convert.targets.c.plan import (
    Action,
    Add,
    AddMap,
    Apply,
    BinaryConvolution,
    Clamp,
    Function,
    Map,
    Multiply,
    MultiplyMap,
    PRelu,
    Store,
    Threshold,
    Vector,
)

_FUNCTIONS: Mapping[Function, str] = {
    "abs": "fabsf(v)",
    "logistic": "1.f / (1.f + expf(-v))",
    "round": "rintf(v)",
    "tanh": "tanhf(v)",
}


def epilogue(parts: Parts) -> list[str]:
    """The C lines for a pixel, in which `sums` are its sums."""
    lines = _Lines(parts)
    lines.start()
    for number, action in enumerate(parts.step.epilogue):
        lines.add(action, number)
    return lines.loop()


class _Lines:
    """The lines of a pixel by where they stand."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.pixel: list[str] = []  # before the loop over channels
        self.word: list[str] = []  # before 32 of them
        self.channel: list[str] = []
        self.word_end: list[str] = []

    def loop(self) -> list[str]:
        """All of them, in their loops. Channels go by 32 where bits are gathered."""
        if not self.word:
            return [*self.pixel, *_block("for (size_t c = 0; c < channels; c++) {", self.channel)]
        words = [
            "const size_t end = first + 32 < channels ? first + 32 : channels;",
            *self.word,
            *_block("for (size_t c = first; c < end; c++) {", self.channel),
            *self.word_end,
        ]
        header = "for (size_t first = 0; first < channels; first += 32) {"
        return [*self.pixel, *_block(header, words)]

    def start(self) -> None:
        """The number before the first action."""
        step = self.parts.step
        if isinstance(step, Vector):
            for number, term in enumerate(step.terms):
                factor = self.parts.number(f"factor_{number}", term.factor)
                steps = self.parts.number(f"steps_{number}", term.steps)
                middle = self.parts.number(f"middle_{number}", term.middle)
                assign = "float v =" if number == 0 else "v +="
                self.channel.append(f"{assign} {factor} * {steps} + {middle};")
        elif isinstance(step, BinaryConvolution):
            if not isinstance(step.epilogue[0], Threshold):
                self.channel.append("float v = (float)sums[c];")
        else:
            self.channel.append("float v = sums[c];")

    def add(self, action: Action, number: int) -> None:
        """One action."""
        if isinstance(action, Multiply):
            self.channel.append(f"v *= {self.parts.number(f'factor_{number}', action.value)};")
        elif isinstance(action, Add):
            self.channel.append(f"v += {self.parts.number(f'offset_{number}', action.value)};")
        elif isinstance(action, PRelu):
            slope = self.parts.number(f"slope_{number}", action.value)
            self.channel.append(f"if (v < 0.f) v *= {slope};")
        elif isinstance(action, Clamp):
            for bound, sign in ((action.low, "<"), (action.high, ">")):
                if bound is not None:
                    literal = float_literal(bound)
                    self.channel.append(f"if (v {sign} {literal}) v = {literal};")
        elif isinstance(action, Apply):
            self.channel.append(f"v = {_FUNCTIONS[action.function]};")
        elif isinstance(action, AddMap | MultiplyMap):
            name = f"map_{number}"
            self._map(name, action.map)
            operator = "+=" if isinstance(action, AddMap) else "*="
            self.channel.append(f"v {operator} {element(name, action.map.format, 'c')};")
        elif isinstance(action, Store):
            self._store(action, number)
        else:
            self._threshold(action, number)

    def _map(self, name: str, map_: Map) -> None:
        """A map that is read at the same pixel, or at its only one."""
        step = self.parts.step
        if map_.format not in ("float32", "float16") or map_.channels != step.channels:
            raise self.parts.unsupported(f"a map of {map_.channels} {map_.format} as an operand")
        type_ = f"const {MAP_TYPES[map_.format]}"
        if map_.height * map_.width == 1 and step.height * step.width > 1:
            self.parts.pointer(name, type_, map_)
        else:
            self.parts.pointer(f"{name}_begin", type_, map_)
            self.pixel.append(f"{type_} *{name} = {name}_begin + pixel * channels;")

    def _store(self, action: Store, number: int) -> None:
        map_, name = action.map, f"output_{number}"
        if map_.format == "signs":
            self._gather("v < 0.f", number)
            self._put_bits(map_, number, f"bits_{number}")
            return
        stride = self._pixel_stride(map_, name)
        type_ = MAP_TYPES[map_.format]
        self.parts.pointer(f"{name}_begin", type_, map_, action.channel)
        self.pixel.append(f"{type_} *{name} = {name}_begin + pixel * {stride};")
        stored = "to_float16(v)" if map_.format == "float16" else "v"
        self.channel.append(f"{name}[c] = {stored};")

    def _pixel_stride(self, map_: Map, name: str) -> str:
        """Elements from a pixel of an output to the next."""
        if map_.channels == self.parts.step.channels:
            return "channels"
        self.parts.fields.append(("uint16_t", f"{name}_channels", self.parts.size(map_.channels)))
        return f"step->{name}_channels"

    def _threshold(self, action: Threshold, number: int) -> None:
        parts, name = self.parts, f"limits_{number}"
        limits = parts.constants.add_value(action.limits)
        parts.array(name, limits, by_member=action.limits.by_member, row="channels")
        self._gather(f"sums[c] < {name}[c]", number)
        bits = f"bits_{number}"
        if action.flips is not None:
            flips = parts.constants.add_value(action.flips)
            row = "((channels + 31) / 32)"
            parts.array(f"flips_{number}", flips, by_member=action.flips.by_member, row=row)
            bits = f"{bits} ^ flips_{number}[first / 32]"
        self._put_bits(action.map, number, bits)

    def _gather(self, condition: str, number: int) -> None:
        bits = f"bits_{number}"
        self.word.append(f"uint32_t {bits} = 0;")
        # The highest bit, so that it is a constant and the shift the same for all channels.
        self.channel.append(f"{bits} >>= 1;")
        self.channel.append(f"if ({condition}) {bits} |= UINT32_C(1) << 31;")
        self.word_end.append(f"{bits} >>= first + 32 - end;")

    def _put_bits(self, map_: Map, number: int, bits: str) -> None:
        """Stores the bits of 32 channels or fewer."""
        name = f"signs_{number}"
        if map_.channels != self.parts.step.channels:
            raise self.parts.unsupported("a part of a map of signs")
        self.parts.pointer(name, "uint32_t", map_)
        self.word_end.append(
            f"put_pixel_word({name}, pixel, pixel_bits_of(channels), first / 32, {bits});"
        )


def _block(header: str, lines: list[str]) -> list[str]:
    return [header, *("  " + line for line in lines), "}"]
