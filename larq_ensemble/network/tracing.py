"""The vocabulary of architectures as bookkeeping: what each layer would store."""

from __future__ import annotations

from dataclasses import dataclass

from larq_ensemble.network.graph import Content, Kind, LayerGraph, LayerNode, Stored

FLOAT_BITS = 32


@dataclass(frozen=True)
class Traced:
    """A value in a traced network: the layer it comes from and its number of channels."""

    layer: str
    channels: int


class SizeTracer:
    """Records layers as they are applied, with the values a device keeps of each.

    Batch norm counts as two values a channel, because scale, offset, mean and variance fold to
    `scale * x + offset`. A binary filter counts one bit a weight and one float for mean(|W|).

    # Arguments
        binary: as in `KerasLayers`.
    """

    def __init__(self, *, binary: bool = True) -> None:
        self._binary = binary
        self._layers: list[LayerNode] = []

    @property
    def graph(self) -> LayerGraph:
        return LayerGraph(self._layers)

    def input(self, channels: int) -> Traced:
        return self._record("input", Kind.INPUT, (), channels)

    def channels(self, x: Traced) -> int:
        return x.channels

    def conv(self, x: Traced, filters: int, kernel: int, *, strides: int = 1, name: str) -> Traced:
        count = kernel * kernel * x.channels * filters
        stored = Stored(Content.CONV, count, FLOAT_BITS)
        return self._record(name, Kind.CONV, (x,), filters, stored, kernel_size=(kernel, kernel))

    def binary_conv(
        self,
        x: Traced,
        filters: int,
        kernel: int,
        *,
        strides: int = 1,
        binarize_input: bool = True,
        name: str,
    ) -> Traced:
        if not self._binary:
            return self.conv(x, filters, kernel, strides=strides, name=name)
        count = kernel * kernel * x.channels * filters
        stored = (
            Stored(Content.BINARY_FILTER, count, 1),
            Stored(Content.FILTER_SCALE, filters, FLOAT_BITS),
        )
        return self._record(name, Kind.CONV, (x,), filters, *stored, kernel_size=(kernel, kernel))

    def rsign(self, x: Traced, *, name: str) -> Traced:
        if not self._binary:
            return x
        stored = Stored(Content.ACTIVATION, x.channels, FLOAT_BITS)
        return self._record(name, Kind.ACTIVATION, (x,), x.channels, stored)

    def hard_tanh(self, x: Traced, *, name: str) -> Traced:
        return x if self._binary else self._record(name, Kind.OTHER, (x,), x.channels)

    def batch_norm(self, x: Traced, *, positive_scale: bool = False, name: str) -> Traced:
        stored = Stored(Content.NORM, 2 * x.channels, FLOAT_BITS)
        return self._record(name, Kind.NORM, (x,), x.channels, stored)

    def prelu(self, x: Traced, *, per_channel: bool = False, name: str) -> Traced:
        stored = Stored(Content.ACTIVATION, x.channels if per_channel else 1, FLOAT_BITS)
        return self._record(name, Kind.ACTIVATION, (x,), x.channels, stored)

    def rprelu(self, x: Traced, *, name: str) -> Traced:
        shift = slope = offset = Stored(Content.ACTIVATION, x.channels, FLOAT_BITS)
        stored = (shift, slope, offset)
        return self._record(name, Kind.ACTIVATION, (x,), x.channels, *stored)

    def add(self, x: Traced, y: Traced, *, name: str) -> Traced:
        return self._record(name, Kind.MERGE, (x, y), x.channels)

    def average_pool(self, x: Traced, size: int, *, name: str) -> Traced:
        return self._record(name, Kind.OTHER, (x,), x.channels)

    def global_average_pool(self, x: Traced, *, name: str) -> Traced:
        return self._record(name, Kind.OTHER, (x,), x.channels)

    def dropout(self, x: Traced, rate: float, *, name: str) -> Traced:
        return self._record(name, Kind.OTHER, (x,), x.channels)

    def dense(self, x: Traced, units: int, *, name: str) -> Traced:
        stored = (
            Stored(Content.LINEAR, x.channels * units, FLOAT_BITS),
            Stored(Content.BIAS, units, FLOAT_BITS),
        )
        return self._record(name, Kind.DENSE, (x,), units, *stored)

    def _record(
        self,
        name: str,
        kind: Kind,
        inputs: tuple[Traced, ...],
        channels: int,
        *stored: Stored,
        kernel_size: tuple[int, ...] = (),
    ) -> Traced:
        sources = tuple(value.layer for value in inputs)
        self._layers.append(LayerNode(name, kind, sources, stored, kernel_size))
        return Traced(name, channels)
