"""Operators as steps, one by one, each of which reads its maps and stores what it computes.

Nothing is fused yet: an elementwise operator is a step, too. Operators that only give numbers
another shape (RESHAPE, BITCAST, the widening CAST of packed words) leave nothing behind: a map
keeps the pixels and channels that it was computed with, in whatever rows the file puts them, and a
vector that is repeated for long rows is a number a channel again. A layer that reads a whole map as
one pixel, as behind a flattening, is a convolution by a window of that size.

LceDequantize leaves nothing behind either: signs are read as the numbers +1 and -1. A convolution
of them by filters of +1 and -1 is a binary one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import numpy as np

from larq_ensemble.console.wording import counted
from larq_ensemble.convert.targets.c.members import MemberGraph
from larq_ensemble.convert.targets.c.plan import (
    Action,
    BinaryConvolution,
    Clamp,
    Columns,
    Convolution,
    Elementwise,
    Map,
    MapFormat,
    Multiply,
    Pooling,
    Step,
    Store,
    Threshold,
    Value,
    Window,
)
from larq_ensemble.convert.targets.c.values import Values
from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.graph import Operator, Tensor
from larq_ensemble.ir.schema import enum_names

#: Height, width and channels.
Size = tuple[int, int, int]

#: Adds the steps of an operator.
Pattern = Callable[["Lowering", Operator], None]

_CLAMPS: Mapping[str, Clamp] = {
    "RELU": Clamp(0, None),
    "RELU_N1_TO_1": Clamp(-1, 1),
    "RELU6": Clamp(0, 6),
}
#: Of the largest of some numbers, how much those that were rounded in other orders may differ.
_ROUNDING = 1e-5
_LARGEST_WEIGHT = 127
_LARGEST_LIMIT = np.iinfo(np.int16).max


@dataclasses.dataclass(frozen=True)
class Padded:
    """A map with a margin, which a convolution may read without making it."""

    tensor: Tensor
    top: int
    left: int
    value: float


class Lowering:
    """The steps of a graph, as they are added.

    # Arguments
        graph: of any member.
        image_size: of the image.

    # Attributes
        steps: in the order of the graph.
        image: the map of the image.
        values: all constants.
    """

    def __init__(self, graph: MemberGraph, image_size: Size) -> None:
        self.steps: list[Step] = []
        self.image = Map(*image_size, "uint8", shared=True, name="image")
        self.values = Values(graph)
        self._graph = graph
        self._maps: dict[Tensor, Map] = {}
        self._padded: dict[Tensor, Padded] = {}
        self._operator: Operator | None = None

    def run(self, patterns: Mapping[str, Pattern]) -> Map:
        """Adds the steps of all operators that depend on the image, and returns the logits.

        # Arguments
            patterns: by the names of operators.
        """
        graph = self._graph.graph
        image = graph.input("image")
        assert image is not None  # `EnsembleFile`
        self._maps[image] = self.image
        for op in graph.operators:
            if self._graph.of_image.isdisjoint(op.operands):
                continue
            self._operator = op
            pattern = patterns.get(op.name)
            if pattern is None:
                self.refuse("C source has no such operator")
            if not all(map(_is_of_one_image, (*self._read(op), *op.outputs))):
                self.refuse("it doesn't compute one image")
            pattern(self, op)
        (output,) = graph.outputs
        logits = self.floats(output)
        height, width, channels = logits.height, logits.width, logits.channels
        if height * width * channels != output.size:
            self.refuse(f"its logits repeat a map of {height} x {width} x {channels}")
        return logits

    def refuse(self, reason: str) -> NoReturn:
        """Raises the error for the operator that is being lowered."""
        op, operators = self._operator, self._graph.graph.operators
        assert op is not None
        read = " and ".join(str(list(tensor.shape)) for tensor in self._read(op))
        (output, *_) = op.outputs
        name = f" {output.name!r}," if output.name else ""
        raise EnsembleError(
            f"{op.name},{name} operator {operators.index(op) + 1} of {len(operators)} of a member, "
            f"from {read} to {list(output.shape)}: {reason}."
        )

    def _read(self, op: Operator) -> list[Tensor]:
        return [tensor for tensor in op.operands if tensor in self._graph.of_image]

    def is_map(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on the image."""
        return tensor in self._graph.of_image

    def rows(self, tensor: Tensor) -> np.ndarray:
        """A constant, `[members or 1, *shape]`."""
        if self.is_map(tensor):
            self.refuse("a parameter depends on the image")
        return self._graph.rows(tensor)

    def constant(self, tensor: Tensor) -> list[int]:
        """The integers of a constant that all members share."""
        rows = self.rows(tensor)
        if len(rows) > 1:
            self.refuse("its parameters differ from member to member")
        return np.ravel(rows[0]).tolist()

    def alias(self, output: Tensor, tensor: Tensor) -> None:
        """Lets a tensor be another one's map."""
        self._maps[output] = self.map(tensor)

    def define(self, output: Tensor, map: Map) -> None:
        """Says which map a tensor is."""
        self._maps[output] = map

    def pad(self, output: Tensor, padded: Padded) -> None:
        """Says that a tensor is another one with a margin."""
        self._padded[output] = padded

    def padding_of(self, tensor: Tensor) -> Padded | None:
        """The margin of a tensor, if no step made the map with it."""
        return None if tensor in self._maps else self._padded.get(tensor)

    def map(self, tensor: Tensor) -> Map:
        """The map of a tensor, in any format and shape."""
        if tensor not in self._maps:
            padded = self._padded[tensor]
            if padded.value != 0:
                self.refuse("its input has a margin of other numbers than 0")
            source = self.map(padded.tensor)
            height, width, channels = size_of(tensor)
            if (
                channels != source.channels
                or (source.height, source.width) != (padded.tensor.shape[1:3])
            ):
                self.refuse("its input has a margin of channels")
            self._maps[tensor] = self.elementwise(
                source, (height, width, channels), [], top=padded.top, left=padded.left
            )
        return self._maps[tensor]

    def floats(self, tensor: Tensor) -> Map:
        """The map of a tensor as floats, which signs and pixels become first."""
        map = self.map(tensor)
        if map.format != "float32":
            map = self._maps[tensor] = self.apply(map, [])
        return map

    def shaped(self, tensor: Tensor) -> Map:
        """The map of a tensor that has its height, width and channels.

        # Raises
            EnsembleError: if the numbers were computed in another shape.
        """
        map = self.map(tensor)
        if (map.height, map.width, map.channels) != size_of(tensor):
            self.refuse(
                f"it reads a map of {map.height} x {map.width} x {map.channels} in another shape"
            )
        return map

    def written_at(self, map: Map) -> int:
        """The number of the step that computes a map; -1: it is the image."""
        numbers = [number for number, step in enumerate(self.steps) if map in step.writes]
        return max(numbers, default=-1)

    def numbers(self, tensor: Tensor, channels: int, purpose: str) -> Value:
        """A constant number a channel."""
        value = self.values.numbers(tensor, channels, purpose)
        if value is None:
            self.refuse(f"{list(tensor.shape)} aren't {counted(channels, 'channel')}")
        return value

    def vector(self, numbers: np.ndarray, purpose: str) -> Value:
        """Numbers a channel, float32 `[rows, channels]`."""
        return self.values.vector(numbers.astype(np.float32), purpose, self._name)

    def fused(self, op: Operator) -> list[Action]:
        """The fused activation."""
        return self.activation(enum_names("ActivationFunctionType")[op.activation])

    def activation(self, name: str) -> list[Action]:
        """An activation by the schema's name."""
        if name == "NONE":
            return []
        if name not in _CLAMPS:
            self.refuse(f"C source has no activation {name}")
        return [_CLAMPS[name]]

    def apply(self, map: Map, actions: Sequence[Action], format: MapFormat = "float32") -> Map:
        """Adds a step that changes each number of a map."""
        return self.elementwise(map, (map.height, map.width, map.channels), actions, format=format)

    def elementwise(
        self,
        map: Map,
        size: Size,
        actions: Sequence[Action],
        *,
        format: MapFormat = "float32",
        **place: int,
    ) -> Map:
        """Adds an `Elementwise` step and the map that it computes."""
        return self._add(Elementwise, size, actions, format, input=map, **place)

    def pick_columns(self, map: Map, columns: np.ndarray) -> Map:
        """Adds a `Columns` step and the map that it computes.

        # Arguments
            columns: of the map, `[rows, width]`.
        """
        value = self.values.columns(columns, self._name)
        size = map.height, columns.shape[1], map.channels
        return self._add(Columns, size, [], "float32", input=map, columns=value)

    def pool(self, map: Map, size: Size, window: Window, kind: str) -> Map:
        """Adds a `Pooling` step and the map that it computes."""
        format: MapFormat = "signs" if map.format == "signs" and kind == "max" else "float32"
        return self._add(Pooling, size, [], format, input=map, window=window, kind=kind)

    def convolve(
        self,
        x: Tensor,
        filters: np.ndarray,
        size: Size,
        window: Window,
        actions: Sequence[Action],
        *,
        groups: int = 1,
        pad: float = 0,
        purpose: str | None = None,
    ) -> Map:
        """Adds a step of a convolution and the map that it computes.

        # Arguments
            x: its input.
            filters: float32 or int8 `[rows, out, height, width, in / groups]`.
            pad: what stands outside the input.
            purpose: of the filters; `None`: what they look like.
        """
        map, filters, window = self._whole(x, filters, window, size)
        filters = filters.astype(np.float32, copy=False)
        if map.format == "uint8":
            map = self.floats(x)
        filters, scales = _whole_numbers(filters)
        is_binary = map.format == "signs" and bool((np.abs(filters) == 1).all())
        if pad not in ((0, 1) if is_binary else (0,)):
            self.refuse(f"its input has a margin of {pad:g}")
        if scales is not None:
            actions = [Multiply(self.vector(scales, "batch norm")), *actions]
        if purpose is None:
            purpose = self._purpose(map, filters, is_binary=is_binary)
        value = self.values.filters(filters, purpose, self._name)
        fields: dict[str, object] = {"input": map, "filters": value, "window": window}
        if not is_binary:
            return self._add(Convolution, size, actions, "float32", groups=groups, **fields)
        return self._add(
            BinaryConvolution,
            size,
            actions,
            "float32",
            groups=groups,
            pads_with_ones=pad == 1,
            **fields,
        )

    def threshold(self, convolution: Map, limits: np.ndarray) -> Map:
        """Replaces the last step's epilogue by a comparison of the sums.

        # Arguments
            convolution: what the last step computes.
            limits: int `[rows, channels]`: the bit is set for sums below.
        """
        step = self.steps.pop()
        assert [*step.writes] == [convolution]
        signs = dataclasses.replace(convolution, format="signs")
        clipped = np.clip(limits, -_LARGEST_LIMIT, _LARGEST_LIMIT).astype(np.int16)
        value = self.values.thresholds(clipped, self._name)
        shared = step.shared and not value.by_member
        signs.shared = shared
        epilogue = (Threshold(signs, value, None),)
        self.steps.append(dataclasses.replace(step, epilogue=epilogue, shared=shared))
        return signs

    def zeros(self, map: Map, channels: int) -> list[Map]:
        """Adds steps for maps of zeros, as large as a map and of some channels together."""
        parts = [map.channels] * (channels // map.channels) + [channels % map.channels]
        return [
            # All that lies above a map is 0.
            self.elementwise(map, (map.height, map.width, count), [], top=map.height)
            for count in parts
            if count
        ]

    def join(self, maps: Sequence[Map], output: Tensor) -> Map:
        """Adds steps that put maps side by side, and the map of all their channels."""
        shared = all(map.shared for map in maps)
        joined = Map(*size_of(output), "float32", shared, name=self._name)
        channel = 0
        for map in maps:
            step = Elementwise(
                height=map.height,
                width=map.width,
                channels=map.channels,
                epilogue=(Store(joined, channel),),
                shared=shared,
                layer=self._layer,
                input=map,
            )
            self.steps.append(step)
            channel += map.channels
        return joined

    def origin(self, map: Map) -> Step | None:
        """The step that computed a map, before it was changed number by number."""
        step = next((step for step in self.steps if map in step.writes), None)
        return self.origin(step.input) if isinstance(step, Elementwise) else step

    def takes_off_margin(self, map: Map, amounts: Tensor) -> bool:
        """Lets a convolution pad with zeros, if an operator takes off what padded ones added.

        So the converter writes it for maps that are smaller than the filters, where LCE would
        compute padded zeros wrong.

        # Arguments
            map: of an LceBconv2d.
            amounts: what is taken off.
        """
        step = self.steps[-1]
        if not isinstance(step, BinaryConvolution) or map not in step.writes:
            return False
        rows = self.rows(amounts)
        if not step.pads_with_ones or rows.shape != (1, map.height, map.width, map.channels):
            return False
        if step.groups > 1 or step.filters.by_member:
            return False
        added = _of_margin(step)
        for action in step.epilogue[:-1]:
            value = action.value if isinstance(action, Multiply) else None
            if not isinstance(value, Value) or value.by_member:
                return False
            added = added * value.data
        if np.abs(rows[0] - added).max() > _ROUNDING * np.abs(added).max():
            return False
        self.steps[-1] = dataclasses.replace(step, pads_with_ones=False)
        return True

    @property
    def _name(self) -> str:
        assert self._operator is not None
        return self._operator.outputs[0].name or ""

    def _whole(
        self, x: Tensor, filters: np.ndarray, window: Window, size: Size
    ) -> tuple[Map, np.ndarray, Window]:
        """The map, filters and window of a layer that may read a whole map as one pixel."""
        map = self.map(x)
        rows, out, *_, channels = filters.shape
        is_one_pixel = x.size == channels and (window.height, window.width) == (1, 1)
        has_margin = window.top or window.left or size[:2] != (1, 1)
        numbers = map.height * map.width * map.channels
        if is_one_pixel and not has_margin and numbers == channels:
            filters = filters.reshape(rows, out, map.height, map.width, map.channels)
            return map, filters, Window(map.height, map.width)
        return self.shaped(x), filters, window

    def _purpose(self, map: Map, filters: np.ndarray, *, is_binary: bool) -> str:
        if is_binary:
            return "binary filters"
        is_first = not any(isinstance(step, Convolution) for step in self.steps)
        return "stem" if is_first else "shortcuts"

    def _add(
        self,
        make: Callable[..., Step],
        size: Size,
        actions: Sequence[Action],
        format: MapFormat,
        **fields: object,
    ) -> Map:
        height, width, channels = size
        output = Map(height, width, channels, format, shared=True, name=self._name)
        step = make(
            height=height,
            width=width,
            channels=channels,
            epilogue=(*actions, Store(output)),
            shared=True,
            layer=self._layer,
            **fields,
        )
        is_shared = all(map.shared for map in step.reads) and not any(
            value.by_member for value in step.values
        )
        output.shared = is_shared
        self.steps.append(dataclasses.replace(step, shared=is_shared))
        return output

    @property
    def _layer(self) -> str:
        assert self._operator is not None
        return self._name or self._operator.name


def _of_margin(step: BinaryConvolution) -> np.ndarray:
    """What ones around a map add to the sums, `[height, width, channels]`."""
    window, map = step.window, step.input
    ys, xs = (
        np.arange(size)[:, np.newaxis] * stride - first + np.arange(taps) * dilation
        for size, stride, first, taps, dilation in (
            (step.height, window.stride_y, window.top, window.height, window.dilation_y),
            (step.width, window.stride_x, window.left, window.width, window.dilation_x),
        )
    )
    inside_y, inside_x = (
        (at >= 0) & (at < size) for at, size in ((ys, map.height), (xs, map.width))
    )
    outside = ~(inside_y[:, np.newaxis, :, np.newaxis] & inside_x[np.newaxis, :, np.newaxis, :])
    return np.einsum("yxij,oij->yxo", outside.astype(np.float32), step.filters.data.sum(axis=3))


def _whole_numbers(filters: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Filters as small whole numbers times a scale for each, if they are that.

    So are signs with a scale, and quantized weights whose file scales them before the convolution.

    # Arguments
        filters: float32 `[rows, out, height, width, in]`.

    # Returns
        The filters and the scales, float32 `[rows, out]`; `None`: they are as they were.
    """
    magnitudes = np.abs(filters).reshape(*filters.shape[:2], -1)
    smallest = np.where(magnitudes, magnitudes, np.inf).min(axis=2)
    scales = np.where(np.isfinite(smallest), smallest, 1).astype(np.float32)
    if (scales == 1).all():
        return filters, None
    with np.errstate(over="ignore"):  # by a subnormal weight
        divided = filters / scales[:, :, np.newaxis, np.newaxis, np.newaxis]
    whole = np.rint(divided)
    if np.abs(whole).max() > _LARGEST_WEIGHT or (np.abs(divided - whole) > _ROUNDING).any():
        return filters, None
    return whole, scales


def _is_of_one_image(tensor: Tensor) -> bool:
    """Whether the first axis, of images, has one; a vector has no such axis."""
    return len(tensor.shape) == 1 or tensor.shape[:1] == (1,)


def size_of(tensor: Tensor) -> Size:
    """Height, width and channels of one image's tensor, of up to four dimensions."""
    _, *sizes = tensor.shape if len(tensor.shape) > 1 else (1, *tensor.shape)
    height, width, channels = [1] * (3 - len(sizes)) + sizes if len(sizes) <= 3 else (0, 0, 0)
    return height, width, channels
