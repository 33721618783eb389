"""Records the layer graph of an architecture instead of building a Keras model."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

from larq_ensemble.network.graph import Content, Kind, LayerGraph, LayerNode, Stored

FLOAT_BITS = 32

Inputs = TypeVar("Inputs")
Arguments = ParamSpec("Arguments")


@dataclass(frozen=True)
class TracedTensor:
    """A tensor of a traced network.

    # Arguments
        layer: name of the layer that computes it.
        shape: as Keras gives it, `(None, height, width, channels)` or `(None, channels)`.
    """

    layer: str
    shape: tuple[Any, ...]


def keras_layer(
    method: Callable[Concatenate[TracedLayers, Inputs, Arguments], TracedTensor],
) -> Callable[Concatenate[TracedLayers, Arguments], Callable[[Inputs], TracedTensor]]:
    """Makes `method(x, *arguments)` callable as Keras layers are: `method(*arguments)(x)`."""

    @functools.wraps(method)
    def layer(
        self: TracedLayers, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Callable[[Inputs], TracedTensor]:
        return lambda x: method(self, x, *args, **kwargs)

    return layer


class TracedLayers:
    """Implements `larq_ensemble.network.layers.Layers` by recording each layer that is called.

    Batch norm counts as two values per channel, because scale, offset, mean and variance fold to
    `scale * x + offset`. A binary filter counts one bit per weight and one float for mean(|W|).

    # Arguments
        binary: `False` for the real-valued twin.
    """

    def __init__(self, *, binary: bool = True) -> None:
        self.binary = binary
        self._layers: list[LayerNode] = []

    @property
    def graph(self) -> LayerGraph:
        """The layers recorded so far."""
        return LayerGraph(self._layers)

    def Input(self, shape: tuple[int, int, int]) -> TracedTensor:
        """An image of `(height, width, channels)`."""
        return self._record("input", Kind.INPUT, (), (None, *shape))

    @keras_layer
    def Conv2D(
        self, x: TracedTensor, filters: int, kernel_size: int, *, strides: int = 1, name: str
    ) -> TracedTensor:
        weights = _kernel_weights(x, filters, kernel_size)
        stored = (Stored(Content.CONV, weights, FLOAT_BITS),)
        return self._convolution(x, filters, kernel_size, strides, stored, name)

    @keras_layer
    def QuantConv2D(
        self,
        x: TracedTensor,
        filters: int,
        kernel_size: int,
        *,
        strides: int = 1,
        input_quantizer: Any = None,
        name: str,
    ) -> TracedTensor:
        if not self.binary:
            return self.Conv2D(filters, kernel_size, strides=strides, name=name)(x)
        weights = _kernel_weights(x, filters, kernel_size)
        stored = (
            Stored(Content.BINARY_FILTER, weights, 1),
            Stored(Content.FILTER_SCALE, filters, FLOAT_BITS),
        )
        return self._convolution(x, filters, kernel_size, strides, stored, name)

    @keras_layer
    def BatchNormalization(
        self, x: TracedTensor, *, gamma_constraint: Any = None, name: str
    ) -> TracedTensor:
        stored = (Stored(Content.NORM, 2 * x.shape[-1], FLOAT_BITS),)
        return self._record(name, Kind.NORM, (x,), x.shape, stored)

    @keras_layer
    def PReLU(self, x: TracedTensor, *, shared_axes: Sequence[int], name: str) -> TracedTensor:
        sizes = [size for axis, size in enumerate(x.shape) if axis and axis not in shared_axes]
        stored = (Stored(Content.ACTIVATION, math.prod(sizes), FLOAT_BITS),)
        return self._record(name, Kind.ACTIVATION, (x,), x.shape, stored)

    @keras_layer
    def RSign(self, x: TracedTensor, *, name: str) -> TracedTensor:
        if not self.binary:
            return x
        stored = (Stored(Content.ACTIVATION, x.shape[-1], FLOAT_BITS),)
        return self._record(name, Kind.ACTIVATION, (x,), x.shape, stored)

    @keras_layer
    def RPReLU(self, x: TracedTensor, *, name: str) -> TracedTensor:
        shift = slope = offset = Stored(Content.ACTIVATION, x.shape[-1], FLOAT_BITS)
        return self._record(name, Kind.ACTIVATION, (x,), x.shape, (shift, slope, offset))

    @keras_layer
    def Cropping2D(
        self,
        x: TracedTensor,
        cropping: tuple[tuple[int, int], tuple[int, int]],
        *,
        name: str,
    ) -> TracedTensor:
        _, height, width, channels = x.shape
        (top, bottom), (left, right) = cropping
        shape = (None, height - top - bottom, width - left - right, channels)
        return self._record(name, Kind.OTHER, (x,), shape)

    @keras_layer
    def Activation(self, x: TracedTensor, activation: str, *, name: str) -> TracedTensor:
        return self._record(name, Kind.OTHER, (x,), x.shape)

    @keras_layer
    def Add(self, inputs: Sequence[TracedTensor], *, name: str) -> TracedTensor:
        return self._record(name, Kind.MERGE, inputs, inputs[0].shape)

    @keras_layer
    def Concatenate(self, inputs: Sequence[TracedTensor], *, name: str) -> TracedTensor:
        shape = (*inputs[0].shape[:-1], sum(x.shape[-1] for x in inputs))
        return self._record(name, Kind.MERGE, inputs, shape)

    @keras_layer
    def AveragePooling2D(self, x: TracedTensor, pool_size: int, *, name: str) -> TracedTensor:
        return self._record(name, Kind.OTHER, (x,), _strided(x, pool_size, x.shape[-1]))

    @keras_layer
    def GlobalAveragePooling2D(self, x: TracedTensor, *, name: str) -> TracedTensor:
        return self._record(name, Kind.OTHER, (x,), (None, x.shape[-1]))

    @keras_layer
    def Dropout(self, x: TracedTensor, rate: float, *, name: str) -> TracedTensor:
        return self._record(name, Kind.OTHER, (x,), x.shape)

    @keras_layer
    def Dense(self, x: TracedTensor, units: int, *, name: str) -> TracedTensor:
        weights = x.shape[-1] * units
        stored = (
            Stored(Content.LINEAR, weights, FLOAT_BITS),
            Stored(Content.BIAS, units, FLOAT_BITS),
        )
        shape = (*x.shape[:-1], units)
        return self._record(name, Kind.DENSE, (x,), shape, stored, macs=_positions(shape) * weights)

    def _convolution(
        self,
        x: TracedTensor,
        filters: int,
        kernel_size: int,
        strides: int,
        stored: tuple[Stored, ...],
        name: str,
    ) -> TracedTensor:
        shape = _strided(x, strides, filters)
        return self._record(
            name,
            Kind.CONV,
            (x,),
            shape,
            stored,
            kernel_size=(kernel_size, kernel_size),
            macs=_positions(shape) * _kernel_weights(x, filters, kernel_size),
        )

    def _record(
        self,
        name: str,
        kind: Kind,
        inputs: Sequence[TracedTensor],
        shape: tuple[Any, ...],
        stored: tuple[Stored, ...] = (),
        *,
        kernel_size: tuple[int, ...] = (),
        macs: int = 0,
    ) -> TracedTensor:
        sources = tuple(dict.fromkeys(x.layer for x in inputs))
        self._layers.append(LayerNode(name, kind, sources, stored, kernel_size, macs))
        return TracedTensor(name, shape)


def _kernel_weights(x: TracedTensor, filters: int, kernel_size: int) -> int:
    return kernel_size**2 * x.shape[-1] * filters


def _strided(x: TracedTensor, strides: int, channels: int) -> tuple[Any, ...]:
    """The output shape of a layer with `strides` and padding "same"."""
    _, height, width, _ = x.shape
    return None, -(-height // strides), -(-width // strides), channels


def _positions(shape: tuple[Any, ...]) -> int:
    """The number of output positions for one image."""
    return math.prod(shape[1:-1])
