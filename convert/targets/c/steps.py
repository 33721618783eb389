"""The steps of a plan as C functions: one for each distinct loop nest, and a struct a step.

What steps have in common is the text of a function: how a pixel's sums are computed, and the
sequence of actions that follows, as one loop over channels. What they differ in, shapes, arrays in
flash and places in the arena, is a constant struct that the function takes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from larq_ensemble.convert.targets.c import binary_filters
from larq_ensemble.convert.targets.c.constants import WIDTH, Constants, wrapped
from larq_ensemble.convert.targets.c.epilogues import epilogue
from larq_ensemble.convert.targets.c.equal_rows import MEMBER, Call, share_rows
from larq_ensemble.convert.targets.c.parts import MAP_TYPES, Parts, window_members
from larq_ensemble.convert.targets.c.plan import (
    BinaryConvolution,
    Columns,
    Convolution,
    Elementwise,
    Map,
    Plan,
    Pooling,
    Step,
    Value,
    Vector,
    Window,
)
from larq_ensemble.convert.targets.c.scratch import is_depthwise, pools_signs

_FORMATS = {
    "float32": "FORMAT_FLOAT32",
    "float16": "FORMAT_FLOAT16",
    "int8": "FORMAT_INT8",
    "uint8": "FORMAT_UINT8",
    "signs": "FORMAT_SIGNS",
}


@dataclass
class Program:
    """The C text of a plan's steps.

    # Arguments
        constants: the arrays in flash.
        kernels: names of the files of kernels that the functions need.
        functions: C text of a function and its struct, without their number -> their number.
        structs: definitions of the steps' structs.
        shared, member: C calls of `begin` and of a member.
        reads_image: whether members read the image.
    """

    constants: Constants = field(default_factory=Constants)
    kernels: dict[str, None] = field(default_factory=lambda: {"arena": None})
    functions: dict[str, int] = field(default_factory=dict)
    structs: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    member: list[str] = field(default_factory=list)
    reads_image: bool = False

    def function_definitions(self) -> str:
        """All functions, numbered."""
        return "\n\n".join(text.replace("@", str(n)) for text, n in self.functions.items())


def program_of(plan: Plan) -> Program:
    """Writes the steps of a plan.

    # Raises
        EnsembleError: for what the kernels can't do; it names the layer.
    """
    program = Program()
    calls = [
        _add_step(program, plan, step, scratch, number)
        for number, (step, scratch) in enumerate(zip(plan.steps, plan.scratch, strict=True))
    ]
    calls = share_rows(calls, program.constants, plan.members)
    for step, call in zip(plan.steps, calls, strict=True):
        (program.shared if step.shared else program.member).append(call.text)
    return program


def comment(text: str) -> str:
    """A text that comes from a file, as part of a C comment."""
    return re.sub(r"[^\w .,:;()\[\]+=<>-]", "_", text, flags=re.ASCII)


def _add_step(program: Program, plan: Plan, step: Step, scratch: int, number: int) -> Call:
    """Adds the step's function, unless there is one like it, and its struct; returns its call."""
    writer = _StepFunction(program, plan, step, scratch)
    kind, loops = writer.kind, writer.loops
    fields = sorted(writer.parts.fields, key=_order_of_fields)
    type_ = kind.title().replace("_", "") + "Step@"
    parameters = {"&step_" + str(number): f"const {type_} *step", "arena": "uint8_t *arena"}
    if plan.image in step.inputs:
        parameters["image"] = "const uint8_t *image"
        program.reads_image |= not step.shared
    if writer.parts.rows:
        parameters[MEMBER] = f"size_t {MEMBER}"
    text = "\n".join(
        [
            "typedef struct {",
            *(f"  {kind_of_field} {name};".replace("* ", "*") for kind_of_field, name, _ in fields),
            f"}} {type_};",
            "",
            *_signature(f"run_{kind}_@", [*parameters.values()]),
            *("  " + line for line in writer.parts.setup + loops),
            "}",
        ]
    )
    function = program.functions.setdefault(text, len(program.functions) + 1)
    program.structs.append(
        "\n".join(
            [
                f"/* {comment(step.layer)}: {step.height}x{step.width}x{step.channels} */",
                f"static const {type_.replace('@', str(function))} step_{number} = {{",
                *wrapped((f".{name} = {initializer}" for _, name, initializer in fields), "   "),
                "};",
            ]
        )
    )
    return Call(
        f"run_{kind}_{function}",
        tuple(parameters),
        tuple(writer.parts.rows),
        tuple(writer.parts.whole),
    )


def _signature(name: str, parameters: list[str]) -> list[str]:
    """The first line of a function, or two if one is too long."""
    joined = ", ".join(parameters)
    line = f"static void {name}({joined}) {{"
    if len(line) + 2 * line.count("@") <= WIDTH:  # numbers have up to three digits
        return [line]
    return [f"static void {name}(", f"    {joined}) {{"]


def _order_of_fields(item: tuple[str, str, str]) -> int:
    """Pointers first and small numbers last, so that there are no gaps."""
    return 0 if "*" in item[0] else 1 if item[0] == "uint32_t" else 2


class _StepFunction:
    """The text of a step's function.

    # Arguments
        kind: what the step does, in the name of the function. `run_` before it keeps it apart from
            arrays, which have the names of their purposes.
        parts: its fields and what stands before the loops.
        loops: the rest.
    """

    def __init__(self, program: Program, plan: Plan, step: Step, scratch: int) -> None:
        self.program, self.plan, self.scratch = program, plan, scratch
        self.parts = Parts(step, program.constants)
        for name, size in ("height", step.height), ("width", step.width):
            self.parts.fields.append(("uint16_t", name, self.parts.size(size)))
        if isinstance(step, BinaryConvolution):
            self.kind, lines = "binary_convolution", self._binary_convolution(step)
        elif isinstance(step, Convolution):
            self.kind = "depthwise" if is_depthwise(step) else "convolution"
            lines = self._convolution(step)
        elif isinstance(step, Pooling):
            self.kind = "sign_pooling" if pools_signs(step) else f"{step.kind}_pooling"
            lines = self._sign_pooling(step) if pools_signs(step) else self._pooling(step)
        elif isinstance(step, Elementwise):
            self.kind, lines = "elementwise", self._elementwise(step)
        elif isinstance(step, Columns):
            self.kind, lines = "columns", self._columns(step)
        elif isinstance(step, Vector):
            self.kind, lines = "vector", self._vector(step)
        else:
            raise NotImplementedError(type(step).__name__)
        if not pools_signs(step):
            lines += epilogue(self.parts)
        self.loops = [
            "size_t pixel = 0;",
            "for (int32_t y = 0; y < step->height; y++)",
            "  for (int32_t x = 0; x < step->width; x++, pixel++) {",
            *("    " + line for line in lines),
            "  }",
        ]

    def _binary_convolution(self, step: BinaryConvolution) -> list[str]:
        self._need("binary_convolution")
        values = self.parts.sizes(binary_filters.geometry(step))
        self.parts.fields.append(("BinaryConvolution", "convolution", values))
        self.parts.setup.append("const size_t channels = step->convolution.channels;")
        rows = np.atleast_2d(binary_filters.packed_filters(step))
        self._filters(step.filters, rows)
        self._input(step.input)
        self._scratch("uint32_t *room = at(arena, step->scratch);")
        return [
            "const int16_t *sums = binary_sums(&step->convolution, filters, input, y, x, room);"
        ]

    def _convolution(self, step: Convolution) -> list[str]:
        self._need(self.kind)
        self._geometry(step.window, step.groups)
        value = step.filters
        if value.format not in _FORMATS:
            raise self.parts.unsupported(f"filters in the format {value.format!r}")
        order = _depthwise_order if self.kind == "depthwise" else _in_fours
        filters = value.data.reshape(-1, *value.data.shape[-4:])
        numbers = np.stack([order(one, step.groups) for one in filters])
        self._filters(value, numbers)
        self._input(step.input)
        self._scratch("float *sums = at(arena, step->scratch), *room = sums + channels;")
        formats = f"{_FORMATS[step.input.format]}, {_FORMATS[value.format]}"
        return [f"{self.kind}_sums(g, {formats}, input, filters, y, x, room, sums);"]

    def _pooling(self, step: Pooling) -> list[str]:
        self._need(self.kind)
        self._geometry(step.window, 1)
        self._input(step.input)
        self._scratch("float *sums = at(arena, step->scratch), *room = sums + channels;")
        function = {"mean": "mean_of_window", "max": "largest_of_window"}[step.kind]
        return [f"{function}(g, {_FORMATS[step.input.format]}, input, y, x, room, sums);"]

    def _sign_pooling(self, step: Pooling) -> list[str]:
        self._need("sign_pooling")
        self._geometry(step.window, 1)
        self._input(step.input)
        (output,) = step.writes
        self.parts.pointer("output", "uint32_t", output)
        return ["largest_signs(g, input, y, x, output, pixel);"]

    def _elementwise(self, step: Elementwise) -> list[str]:
        self._need("maps")
        window = Window(1, 1, step.stride_y, step.stride_x, step.top, step.left)
        self._geometry(window, 1, step.channel)
        self._input(step.input)
        self._scratch("float *room = at(arena, step->scratch);")
        return [
            "const float *sums =",
            f"    padded_channels(g, {_FORMATS[step.input.format]}, input, row_of_tap(g, y, 0),",
            "                    column_of_tap(g, x, 0), g->first_channel, channels, room);",
        ]

    def _columns(self, step: Columns) -> list[str]:
        self._need("maps")
        self._geometry(Window(1, 1), 1)
        self._input(step.input)
        array, by_member = self.program.constants.add_value(step.columns), step.columns.by_member
        self.parts.array("columns", array, by_member=by_member, row="step->width")
        self._scratch("float *room = at(arena, step->scratch);")
        return [
            "const float *sums =",
            f"    channels_at(g, {_FORMATS[step.input.format]}, input, y, columns[x], 0, channels,",
            "                room);",
        ]

    def _vector(self, step: Vector) -> list[str]:
        self._need("maps")
        self.parts.fields.append(("uint16_t", "channels", self.parts.size(step.channels)))
        self.parts.setup.append("const size_t channels = step->channels;")
        return []

    def _geometry(self, window: Window, groups: int, first_channel: int = 0) -> None:
        """The kernels' struct of what the step reads."""
        (source,) = self.parts.step.inputs
        values = {
            "in_height": source.height,
            "in_width": source.width,
            "in_channels": source.channels,
            "channels": self.parts.step.channels,
            **window_members(window),
            "groups": groups,
            "first_channel": first_channel,
        }
        self.parts.fields.append(("Geometry", "geometry", self.parts.sizes(values)))
        self.parts.setup.append("const Geometry *g = &step->geometry;")
        if not pools_signs(self.parts.step):
            self.parts.setup.append("const size_t channels = g->channels;")

    def _input(self, source: Map) -> None:
        if source is self.plan.image:
            self.parts.setup.append("const uint8_t *input = image;")
        else:
            self.parts.pointer("input", f"const {MAP_TYPES[source.format]}", source)

    def _filters(self, value: Value, numbers: np.ndarray) -> None:
        """A variable for filters, whose numbers are in the order of the kernel."""
        constants, parts = self.program.constants, self.parts
        if numbers.dtype == np.uint32:
            array = constants.add(numbers, "uint32_t", value.purpose)
        else:
            array = constants.add_value(value, numbers)
        if value.by_member:
            parts.fields.append(("uint32_t", "filters_of_member", str(array.row_length)))
        parts.array("filters", array, by_member=value.by_member, row="step->filters_of_member")

    def _scratch(self, variables: str) -> None:
        """Room for the sums, and for what a kernel needs besides."""
        self.parts.fields.append(("uint32_t", "scratch", str(self.scratch)))
        self.parts.setup.append(variables)

    def _need(self, kernel: str) -> None:
        self.program.kernels[kernel] = None


_Order = Callable[[np.ndarray, int], np.ndarray]


def _in_fours(filters: np.ndarray, groups: int) -> np.ndarray:
    """`[channels, ky, kx, depth]` as `convolution_sums` reads it: a group's filters in fours."""
    taps = filters.reshape(groups, len(filters) // groups, -1)
    whole = taps.shape[1] // 4 * 4
    fours = taps[:, :whole].reshape(groups, whole // 4, 4, taps.shape[2]).swapaxes(2, 3)
    rest = taps[:, whole:]
    parts = [part.reshape(groups, part.size // groups) for part in (fours, rest)]
    return np.concatenate(parts, axis=1).ravel()


def _depthwise_order(filters: np.ndarray, groups: int) -> np.ndarray:
    """`[channels, ky, kx, 1]` as `[ky, kx, channels]`."""
    return filters[..., 0].transpose(1, 2, 0).ravel()
