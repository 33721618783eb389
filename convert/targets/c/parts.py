"""What the functions of a plan's steps are made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from larq_ensemble.convert.targets.c.constants import Array, Constants, wrapped
from larq_ensemble.convert.targets.c.plan import Map, Numbers, Step, ValueFormat, Window
from larq_ensemble.errors import EnsembleError

#: The C type of a map's elements.
MAP_TYPES = {"float32": "float", "float16": "uint16_t", "uint8": "uint8_t", "signs": "uint32_t"}
#: C text of the elements that a row of numbers takes, where these aren't as many.
_ROWS: dict[ValueFormat, str] = {"int4": "((channels + 1) / 2)", "signs": "((channels + 31) / 32)"}
_LARGEST = 2**15 - 1  # of shapes, in 16 bits


@dataclass
class Parts:
    """A function and the struct that it takes, while they are written.

    # Arguments
        step: the step.
        constants: the arrays in flash.
        fields: of the struct: type, name and initializer.
        setup: the lines before the loops.
        rows: arrays of which a member's row is read.
        whole: arrays of which all is read.
    """

    step: Step
    constants: Constants
    fields: list[tuple[str, str, str]] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
    rows: list[Array] = field(default_factory=list)
    whole: list[Array] = field(default_factory=list)

    def pointer(self, name: str, type_: str, map_: Map, first: int = 0) -> None:
        """A variable that points to a map.

        # Arguments
            first: the element that it points to.
        """
        assert map_.offset is not None  # since `arena.place`
        if map_.format == "signs" and first:
            raise self.unsupported("a part of a map of signs")
        place = map_.offset + first * map_.number_bits // 8
        self.fields.append(("uint32_t", name, str(place)))
        self.setup.append(f"{type_} *{name} = at(arena, step->{name});")

    def array(self, name: str, array: Array, *, by_member: bool, row: str) -> None:
        """A variable that points to an array in flash, or to a member's row.

        # Arguments
            row: C text of the elements in a row.
        """
        self.fields.append((f"const {array.type} *", name, array.name))
        at = f"step->{name}"
        (self.rows if by_member else self.whole).append(array)
        if by_member:
            at += f" + member * {row}" if row != "1" else " + member"
        self.setup.append(f"const {array.type} *{name} = {at};")

    def number(self, name: str, numbers: Numbers) -> str:
        """A C expression for the number of channel `c`, as a float."""
        if isinstance(numbers, Map):
            self.pointer(name, f"const {MAP_TYPES[numbers.format]}", numbers)
            size = numbers.channels
        else:
            array = self.constants.add_value(numbers)
            size = numbers.data.size // (len(numbers.data) if numbers.by_member else 1)
            row = _ROWS.get(numbers.format, "channels")
            if size == 1 or self.step.channels == 1:
                row = "1"
            self.array(name, array, by_member=numbers.by_member, row=row)
        if size == self.step.channels:
            return element(name, numbers.format, "c")
        if size != 1:
            raise self.unsupported(f"{size} numbers for {self.step.channels} channels")
        self.setup.append(f"const float {name}_of_all = {element(name, numbers.format, '0')};")
        return f"{name}_of_all"

    def sizes(self, values: dict[str, int]) -> str:
        """The initializer of a struct of 16-bit numbers."""
        items = [f".{name} = {self.size(value)}" for name, value in values.items()]
        return "\n".join(["{", *wrapped(items, "       "), "    }"])

    def size(self, size: int) -> str:
        """A number of 16 bits."""
        if not -_LARGEST <= size <= _LARGEST:
            raise self.unsupported(f"a size of {size:,}, which is above {_LARGEST:,}")
        return str(size)

    def unsupported(self, what: str) -> EnsembleError:
        """The error for what the kernels can't do."""
        return EnsembleError(
            f"Layer {self.step.layer!r} needs {what}, for which there is no kernel in C."
        )


def window_members(window: Window) -> dict[str, int]:
    """The members that describe a window, of the structs of the kernels."""
    return {
        "window_height": window.height,
        "window_width": window.width,
        "stride_y": window.stride_y,
        "stride_x": window.stride_x,
        "top": window.top,
        "left": window.left,
        "dilation_y": window.dilation_y,
        "dilation_x": window.dilation_x,
    }


def element(array: str, format_: str, index: str) -> str:
    """A C expression for an element of an array, as a float."""
    if format_ == "float32":
        return f"{array}[{index}]"
    if format_ == "float16":
        return f"from_float16({array}[{index}])"
    if format_ == "int4":
        nibble = f"({array}[{index} / 2] >> ({index} % 2 * 4)) & 15"
        return f"(float)(2 * ({nibble}) - 15)"
    if format_ == "signs":
        return f"(({array}[{index} / 32] >> ({index} % 32)) & 1 ? -1.f : 1.f)"
    return f"(float){array}[{index}]"
