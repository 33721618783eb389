"""Binarized convolutions of a member's own as LceBconv2d.

In the member-indexed graph the filters of such a convolution are looked up as bits, unpacked and
computed with as floats, because LceBconv2d packs its filters for the processor once:

    bits -> LceDequantize (-> PADV2 with ones) -> CONV_2D -> MUL by each filter's scale
                    looked-up bits -> LceDequantize -^

In a graph of one member the looked-up bits are a constant, and LceBconv2d can have them:

    bits -> LceBconv2d(bits, looked-up bits, scale)
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flatbuffers import flexbuffers

from larq_ensemble.convert.flatbuffer import add_buffer, content, operator_names, schema
from larq_ensemble.convert.packing import operator_code


def bit_pack_convolutions(model: Any) -> None:
    """Makes an LceBconv2d of every convolution that `bit_packable` finds, in place."""
    graph = model.subgraphs[0]
    for found in list(bit_packable(model)):
        multiplier, op = found.multiplier, found.last
        if multiplier is None:
            ones = copy.copy(graph.tensors[found.bias])
            ones.buffer = add_buffer(model, np.ones(ones.shape, np.float32))
            graph.tensors.append(ones)
            multiplier = len(graph.tensors) - 1
        op.opcodeIndex = operator_code(model, schema().BuiltinOperator.CUSTOM, b"LceBconv2d")
        op.inputs = np.array([found.bits, found.filters, multiplier, found.bias, -1], np.int32)
        op.builtinOptionsType, op.builtinOptions = 0, None
        op.customOptions = np.frombuffer(flexbuffers.Dumps(found.options), np.uint8)
        if found.relu_follows:
            relu = schema().OperatorT()
            relu.opcodeIndex = operator_code(model, schema().BuiltinOperator.RELU)
            relu.outputs = op.outputs
            graph.tensors.append(copy.copy(graph.tensors[op.outputs[0]]))
            relu.inputs = op.outputs = np.array([len(graph.tensors) - 1], np.int32)
            graph.operators.insert(graph.operators.index(op) + 1, relu)


@dataclass(frozen=True)
class BitPackable:
    """A convolution of signs by looked-up signs, in numbers of tensors.

    # Arguments
        last: its last operator: the MUL by the filters' scale, or the CONV_2D if it has none.
        bits: the packed input.
        filters: the packed filters.
        multiplier: the filters' scale `[channels]`; `None`: 1.
        bias: zeros `[channels]`.
        options: of the LceBconv2d.
        relu_follows: whether `last` ends in a ReLU that LceBconv2d can't have.
    """

    last: Any
    bits: int
    filters: int
    multiplier: int | None
    bias: int
    options: dict[str, int]
    relu_follows: bool


def bit_packable(model: Any) -> Iterator[BitPackable]:
    """The convolutions with looked-up filters that LceBconv2d computes right.

    Others stay as they are: real-valued inputs, groups, and zero padding around an input that is
    smaller than the filter, which LCE 0.16.0 miscomputes.
    """
    graph = _Graph(model)
    for op in graph.all_of("CONV_2D"):
        x, filters, bias = op.inputs.tolist()
        padding, unpacked = graph.made_by("PADV2", x), graph.made_by("LceDequantize", filters)
        signs = graph.made_by("LceDequantize", int(padding.inputs[0]) if padding else x)
        if signs is None or unpacked is None or filters in graph.of_image:
            continue
        shape, kernel = graph.shape(signs.outputs[0]), graph.shape(filters)
        if shape[3] != kernel[3] or not graph.is_constant(bias, 0):
            continue
        options = op.builtinOptions
        axes = _Axis.both(options, shape, kernel)
        pad_value = _pad_value(graph, op, padding, axes)
        if pad_value is None:
            continue
        same = options.padding == schema().Padding.SAME
        activation, relu = options.fusedActivationFunction, False
        if same and activation:
            # LceBconv2d has no activation with zero padding.
            if activation != schema().ActivationFunctionType.RELU:
                continue
            activation, relu = 0, True
        scaling, multiplier = (None, None) if relu else graph.scaling(int(op.outputs[0]))
        yield BitPackable(
            last=scaling or op,
            bits=int(signs.inputs[0]),
            filters=int(unpacked.inputs[0]),
            multiplier=multiplier,
            bias=bias,
            options={
                "channels_in": shape[3],
                "dilation_height_factor": axes[0].dilation,
                "dilation_width_factor": axes[1].dilation,
                "fused_activation_function": activation,
                "pad_values": pad_value,
                "padding": schema().Padding.SAME if padding else options.padding,
                "stride_height": axes[0].stride,
                "stride_width": axes[1].stride,
            },
            relu_follows=relu,
        )


def _pad_value(graph: _Graph, op: Any, padding: Any, axes: Sequence[_Axis]) -> int | None:
    """What LceBconv2d has to pad with in place of a CONV_2D; `None` if it can't.

    # Arguments
        op: the CONV_2D.
        padding: the PADV2 before it, or `None`.
    """
    same = op.builtinOptions.padding == schema().Padding.SAME
    if padding is None:
        # LCE 0.16.0 miscomputes zero padding around an input that is smaller than the filter.
        return 0 if not same or all(axis.size >= axis.extent for axis in axes) else None
    # LceBconv2d takes its padding from the sizes: only what "same" adds is possible.
    added, value = padding.inputs[1:].tolist()
    expected = [(0, 0), *(axis.same_padding for axis in axes), (0, 0)]
    possible = not same and graph.is_constant(value, 1) and graph.is_constant(added, expected)
    return 1 if possible else None


@dataclass(frozen=True)
class _Axis:
    """A convolution along the height or the width.

    # Arguments
        size: of the input.
        kernel: taps of the filter.
        stride, dilation: steps between outputs, and between taps.
    """

    size: int
    kernel: int
    stride: int
    dilation: int

    @classmethod
    def both(cls, options: Any, shape: list[int], kernel: list[int]) -> tuple[_Axis, _Axis]:
        """Height and width of a CONV_2D of `[n, h, w, in]` by `[out, h, w, in]`."""
        return (
            cls(shape[1], kernel[1], options.strideH, options.dilationHFactor),
            cls(shape[2], kernel[2], options.strideW, options.dilationWFactor),
        )

    @property
    def extent(self) -> int:
        """What the dilated filter covers."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def same_padding(self) -> tuple[int, int]:
        """What padding "same" adds before and behind."""
        outputs = -(-self.size // self.stride)
        total = max((outputs - 1) * self.stride + self.extent - self.size, 0)
        return total // 2, total - total // 2


class _Graph:
    """Who makes and who reads the tensors of a `ModelT`'s only subgraph.

    # Attributes
        of_image: numbers of the tensors that depend on the image.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._graph = model.subgraphs[0]
        self._names = operator_names(model)
        self._makers: dict[int, Any] = {}
        self._readers: dict[int, list[Any]] = {}
        (signature,) = model.signatureDefs
        self.of_image = {e.tensorIndex for e in signature.inputs if e.name == b"image"}
        for op in self._graph.operators:
            inputs, outputs = op.inputs.tolist(), op.outputs.tolist()
            self._makers.update(dict.fromkeys(outputs, op))
            for tensor in inputs:
                self._readers.setdefault(tensor, []).append(op)
            if not self.of_image.isdisjoint(inputs):
                self.of_image.update(outputs)

    def all_of(self, name: str) -> list[Any]:
        return [op for op in self._graph.operators if self._names[op.opcodeIndex] == name]

    def made_by(self, name: str, tensor: int) -> Any:
        """The operator `name` that makes the tensor, or `None`."""
        op = self._makers.get(tensor)
        return op if op is not None and self._names[op.opcodeIndex] == name else None

    def shape(self, tensor: int) -> list[int]:
        return self._graph.tensors[tensor].shape.tolist()

    def is_constant(self, tensor: int, value: Any) -> bool:
        """Whether the tensor is a constant that has this value, or is made of it."""
        values = content(self._model, self._graph.tensors[tensor])
        return values is not None and bool(np.all(values == value))

    def scaling(self, tensor: int) -> tuple[Any, int | None]:
        """The MUL by a value a channel that alone reads the tensor, and the vector's number.

        The vector must not depend on the image: LceBconv2d reads it at its first run only.
        """
        readers = self._readers.get(tensor, [])
        if len(readers) == 1 and self._names[readers[0].opcodeIndex] == "MUL":
            (op,) = readers
            others = [i for i in op.inputs.tolist() if i != tensor]
            if (
                len(others) == 1
                and others[0] not in self.of_image
                and self.shape(others[0]) == self.shape(tensor)[-1:]
                and not op.builtinOptions.fusedActivationFunction
                and tensor not in self._graph.outputs
            ):
                return op, others[0]
        return None, None
