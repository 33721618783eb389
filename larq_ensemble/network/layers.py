"""The words in which architectures are written.

An architecture is one function that calls these methods. With `KerasLayers` it builds a Keras
model, with `SizeTracer` it yields the sizes of its layers, so the storage accounting can't
disagree with the network.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

Value = TypeVar("Value")


class Layers(Protocol[Value]):
    """Layers by name; each method applies one layer to `x` and returns its output."""

    def channels(self, x: Value) -> int:
        """The number of channels of `x`."""

    def conv(self, x: Value, filters: int, kernel: int, *, strides: int = 1, name: str) -> Value:
        """A real-valued convolution without bias, padded to the same size."""

    def binary_conv(
        self,
        x: Value,
        filters: int,
        kernel: int,
        *,
        strides: int = 1,
        binarize_input: bool = True,
        name: str,
    ) -> Value:
        """sign(x) convolved with mean(|W|) * sign(W), without bias, padded to the same size.

        After `rsign` the input is binarized already: `binarize_input=False`.
        """

    def rsign(self, x: Value, *, name: str) -> Value:
        """`larq_ensemble.layers.RSign`; in a real-valued twin nothing."""

    def hard_tanh(self, x: Value, *, name: str) -> Value:
        """min(max(x, -1), 1) in a real-valued twin; nothing where a sign follows in its place."""

    def batch_norm(self, x: Value, *, positive_scale: bool = False, name: str) -> Value:
        """Batch normalization over the last axis.

        With a scale that is kept positive it is one threshold a channel before a sign.
        """

    def prelu(self, x: Value, *, per_channel: bool = False, name: str) -> Value:
        """max(x, 0) + a * min(x, 0) with one slope `a`, or one for each channel."""

    def rprelu(self, x: Value, *, name: str) -> Value:
        """`larq_ensemble.layers.RPReLU`."""

    def add(self, x: Value, y: Value, *, name: str) -> Value:
        """The sum of two branches."""

    def average_pool(self, x: Value, size: int, *, name: str) -> Value:
        """The mean of each `size` x `size` window; windows don't overlap, the last may be cut."""

    def global_average_pool(self, x: Value, *, name: str) -> Value:
        """The mean of each channel."""

    def dropout(self, x: Value, rate: float, *, name: str) -> Value:
        """Dropout in training, the identity otherwise."""

    def dense(self, x: Value, units: int, *, name: str) -> Value:
        """A linear layer with bias."""
