"""Lowerings: how a layer that members own is computed from looked-up values.

`larq_ensemble.convert.frontend.member_indexed` makes one graph for all members. A layer type's
`Lowering` says which values differ between members, and what the layer computes from one member's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.layers import Bias, PReLU, RPReLU, RSign

Values = dict[str, np.ndarray]
Rows = Mapping[str, tf.Tensor]
#: Bits that are packed into one number.
_WORD = 32


class Lowering(ABC):
    """How a layer type is computed from looked-up values.

    `LOWERINGS[LayerType] = SomeLowering()` adds a layer type.

    # Attributes
        weights: names of the attributes whose values the lowering looks up; `None`: any.
    """

    weights: tuple[str, ...] | None = None

    def is_for(self, layer: keras.layers.Layer) -> bool:
        """Whether the lowering computes a layer of its type, with all of the layer's arguments.

        Where it doesn't, `larq_ensemble.convert.frontend.any_layer` runs the layer itself.
        """
        if self.weights is None:
            return True
        known = {id(getattr(layer, name, None)) for name in self.weights}
        return all(id(weight) in known for weight in layer.weights)

    @abstractmethod
    def values(self, layer: keras.layers.Layer) -> Values:
        """The values that differ between members, by name.

        Vectors of float32 share one table; every other array gets its own table. Names and shapes
        must be the same in each member's copy of the layer.

        # Raises
            EnsembleError: for a configuration that can't be converted.
        """

    @abstractmethod
    def apply(self, layer: keras.layers.Layer, x: tf.Tensor, rows: Rows) -> tf.Tensor:
        """The layer's output in inference.

        # Arguments
            layer: for its configuration; its weights are those of the first member.
            x: the layer's input.
            rows: one member's `values` as tensors, by the same names.
        """


class BatchNormalizationLowering(Lowering):
    """`x * scale + offset`, `scale = gamma / sqrt(var + eps)`, `offset = beta - mean * scale`."""

    def is_for(self, layer: keras.layers.BatchNormalization) -> bool:
        return normalizes_channels(layer)

    def values(self, layer: keras.layers.BatchNormalization) -> Values:
        return {name: value.astype(np.float32) for name, value in folded_norm(layer).items()}

    def apply(self, layer: keras.layers.Layer, x: tf.Tensor, rows: Rows) -> tf.Tensor:
        return x * rows["scale"] + rows["offset"]


class PReLULowering(Lowering):
    """`relu(x) - alpha * relu(-x)`, which `passes.prelu_fusion` turns into one PRELU."""

    weights = ("alpha",)

    def values(self, layer: keras.layers.PReLU) -> Values:
        alpha = layer.alpha.numpy()
        # An alpha that is shared over height and width is a vector, or one number.
        return {"alpha": alpha.reshape(-1) if alpha.size == alpha.shape[-1] else alpha}

    def apply(self, layer: keras.layers.Layer, x: tf.Tensor, rows: Rows) -> tf.Tensor:
        return tf.nn.relu(x) - rows["alpha"] * tf.nn.relu(-x)


class RSignLowering(Lowering):
    """`sign(x + offset)`, `offset = -threshold`: an addition of a row is cheaper than a SUB."""

    def values(self, layer: RSign) -> Values:
        return {"offset": -layer.threshold.numpy()}

    def apply(self, layer: RSign, x: tf.Tensor, rows: Rows) -> tf.Tensor:
        return lq.quantizers.approx_sign(x + rows["offset"])


class RPReLULowering(Lowering):
    """`prelu(x + shift, slope) + offset` with the layer's shift negated."""

    def values(self, layer: RPReLU) -> Values:
        return {
            "shift": -layer.shift.numpy(),
            "slope": layer.slope.numpy(),
            "offset": layer.offset.numpy(),
        }

    def apply(self, layer: RPReLU, x: tf.Tensor, rows: Rows) -> tf.Tensor:
        shifted = x + rows["shift"]
        return tf.nn.relu(shifted) - rows["slope"] * tf.nn.relu(-shifted) + rows["offset"]


class BiasLowering(Lowering):
    """`x + bias`."""

    def values(self, layer: Bias) -> Values:
        return {"bias": layer.bias.numpy()}

    def apply(self, layer: Bias, x: tf.Tensor, rows: Rows) -> tf.Tensor:
        return x + rows["bias"]


class DenseLowering(Lowering):
    """`activation(x W + b)`; W is stored transposed, as FULLY_CONNECTED reads it.

    If W is binarized, its signs and the scale of each unit are looked up.
    """

    weights = ("kernel", "bias")

    def is_for(self, layer: keras.layers.Dense) -> bool:
        return super().is_for(layer) and is_binary_or_real(layer)

    def values(self, layer: keras.layers.Dense) -> Values:
        values = (
            _signs_and_scales(layer) if is_binary(layer) else {"kernel": layer.kernel.numpy().T}
        )
        if layer.use_bias:
            values["bias"] = layer.bias.numpy()
        return values

    def apply(self, layer: keras.layers.Dense, x: tf.Tensor, rows: Rows) -> tf.Tensor:
        x = quantized_input(layer, x)
        rows_of_inputs = tf.reshape(x, [-1, x.shape[-1]])
        kernel = tf.cast(rows["kernel"], x.dtype)
        outputs = tf.linalg.matmul(rows_of_inputs, kernel, transpose_b=True)
        if "filter_scale" in rows:
            outputs *= rows["filter_scale"]
        if layer.use_bias:
            outputs += rows["bias"]
        return layer.activation(tf.reshape(outputs, [*x.shape[:-1], layer.units]))


class Int8DenseLowering(DenseLowering):
    """`activation((x Q) * scale + b)`: integers Q from -127 to 127, a scale for each output.

    The rounded weights are the only loss: inputs, products and sums stay float32.
    """

    def values(self, layer: keras.layers.Dense) -> Values:
        return _in_int8(super().values(layer))


class Conv2DLowering(Lowering):
    """A 2D convolution; filters are stored as `[out, h, w, in]`, as CONV_2D reads them.

    A binarized convolution looks up the signs of its filters, as int8 here and as bits after
    `passes.sign_packing`. It computes with floats, because LceBconv2d reads its filters only once.
    In layouts without lookups `passes.bit_packed_convolutions` turns it into an LceBconv2d, which
    takes whole words of channels. No other convolution needs these, so where the input isn't
    binary and they would have gaps, the signs are flat.
    """

    weights = ("kernel", "bias")

    def is_for(self, layer: keras.layers.Conv2D) -> bool:
        return (
            super().is_for(layer)
            and layer.groups == 1
            and layer.data_format == "channels_last"
            and is_binary_or_real(layer)
        )

    def values(self, layer: keras.layers.Conv2D) -> Values:
        if is_binary(layer):
            values = _signs_and_scales(layer)
            if values["kernel"].shape[-1] % _WORD and not _has_binary_input(layer):
                values["kernel"] = values["kernel"].reshape(-1)
        else:
            values = {"kernel": layer.kernel.numpy().transpose(3, 0, 1, 2)}
        if layer.use_bias:
            values["bias"] = layer.bias.numpy()
        return values

    def apply(self, layer: keras.layers.Conv2D, x: tf.Tensor, rows: Rows) -> tf.Tensor:
        x, padding = quantized_input(layer, x), layer.padding.upper()
        if padding == "SAME" and getattr(layer, "pad_values", 0):
            x = tf.pad(x, same_paddings(layer, x), constant_values=layer.pad_values)
            padding = "VALID"
        filters = tf.cast(rows["kernel"], x.dtype)
        if filters.shape.rank == 1:
            filters = tf.reshape(filters, [layer.filters, *layer.kernel_size, x.shape[-1]])
        outputs = tf.nn.conv2d(
            x,
            # The converter transposes back: the two cancel out and leave the gathered filter.
            tf.transpose(filters, [1, 2, 3, 0]),
            strides=layer.strides,
            padding=padding,
            dilations=layer.dilation_rate,
        )
        if "filter_scale" in rows:
            outputs *= rows["filter_scale"]
        if layer.use_bias:
            outputs += rows["bias"]
        return layer.activation(outputs)


class Int8Conv2DLowering(Conv2DLowering):
    """As `Int8DenseLowering`, for a head that is a convolution."""

    def values(self, layer: keras.layers.Conv2D) -> Values:
        return _in_int8(super().values(layer))


class DepthwiseConv2DLowering(Lowering):
    """A real-valued convolution of each channel by itself; filters as `[h, w, channels, n]`."""

    weights = ("depthwise_kernel", "bias")

    def is_for(self, layer: keras.layers.DepthwiseConv2D) -> bool:
        return super().is_for(layer) and layer.data_format == "channels_last"

    def values(self, layer: keras.layers.DepthwiseConv2D) -> Values:
        values = {"kernel": layer.depthwise_kernel.numpy()}
        if layer.use_bias:
            values["bias"] = layer.bias.numpy()
        return values

    def apply(self, layer: keras.layers.DepthwiseConv2D, x: tf.Tensor, rows: Rows) -> tf.Tensor:
        outputs = tf.nn.depthwise_conv2d(
            x,
            rows["kernel"],
            strides=[1, *layer.strides, 1],
            padding=layer.padding.upper(),
            dilations=layer.dilation_rate,
        )
        if layer.use_bias:
            outputs += rows["bias"]
        return layer.activation(outputs)


#: How a layer of exactly this type is computed where members own it; of other types, or where
#: `Lowering.is_for` says no, by `larq_ensemble.convert.frontend.any_layer`.
LOWERINGS: dict[type, Lowering] = {
    keras.layers.BatchNormalization: BatchNormalizationLowering(),
    keras.layers.PReLU: PReLULowering(),
    PReLU: PReLULowering(),
    Bias: BiasLowering(),
    RSign: RSignLowering(),
    RPReLU: RPReLULowering(),
    keras.layers.Dense: DenseLowering(),
    lq.layers.QuantDense: DenseLowering(),
    keras.layers.Conv2D: Conv2DLowering(),
    lq.layers.QuantConv2D: Conv2DLowering(),
    keras.layers.DepthwiseConv2D: DepthwiseConv2DLowering(),
}


#: The lowering of a head with int8 weights, by its lowering with float32 weights.
_INT8: dict[type, Lowering] = {
    DenseLowering: Int8DenseLowering(),
    Conv2DLowering: Int8Conv2DLowering(),
}


def lowering_of(copies: Sequence[keras.layers.Layer]) -> Lowering | None:
    """The short form of the members' copies of a layer; `None` if there is none for them."""
    lowering = LOWERINGS.get(type(copies[0]))
    return lowering if lowering is not None and all(map(lowering.is_for, copies)) else None


def normalizes_channels(layer: keras.layers.BatchNormalization) -> bool:
    """Whether a batch norm has one mean and variance for each channel, the last axis."""
    return list(layer.axis) == [layer.input_spec.ndim - 1]


def int8_lowering_of(copies: Sequence[keras.layers.Layer]) -> Lowering:
    """The lowering of the members' copies of a head with int8 weights.

    # Raises
        EnsembleError: if there is none for its type, or it is binarized.
    """
    layer = copies[0]
    kind = type(lowering_of(copies))
    if is_binary(layer) or kind not in _INT8:
        raise EnsembleError(
            f"Layer {layer.name!r} ({type(layer).__name__}) can't have int8 weights: "
            f"{'it is binarized' if is_binary(layer) else 'it is no Dense or Conv2D layer'}. "
            'Convert with heads="float32".'
        )
    return _INT8[kind]


def folded_norm(layer: keras.layers.BatchNormalization) -> Values:
    """Inference's scale and offset in float64, `[channels]` each."""
    mean = layer.moving_mean.numpy().astype(np.float64)
    scale = 1 / np.sqrt(layer.moving_variance.numpy().astype(np.float64) + layer.epsilon)
    if layer.scale:
        scale *= layer.gamma.numpy()
    offset = -mean * scale
    if layer.center:
        offset += layer.beta.numpy()
    return {"scale": scale, "offset": offset}


def quantized_input(layer: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
    """The input as the layer's input quantizer gives it, if the layer has one."""
    quantizer = getattr(layer, "input_quantizer", None)
    return x if quantizer is None else quantizer(x)


def same_paddings(layer: keras.layers.Conv2D, x: tf.Tensor) -> list[list[int]]:
    """What padding="same" adds before and behind each axis of `x`."""
    paddings = [[0, 0]]
    for size, stride, extent in zip(
        x.shape[1:3], layer.strides, filter_extents(layer), strict=True
    ):
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        paddings.append([total // 2, total - total // 2])
    return [*paddings, [0, 0]]


def filter_extents(layer: keras.layers.Conv2D) -> list[int]:
    """Height and width that a dilated filter covers."""
    sizes = zip(layer.kernel_size, layer.dilation_rate, strict=True)
    return [(size - 1) * dilation + 1 for size, dilation in sizes]


def is_binary(layer: keras.layers.Layer) -> bool:
    """Whether a layer quantizes its weights."""
    return any(
        getattr(layer, name, None) is not None
        for name in ("kernel_quantizer", "depthwise_quantizer", "pointwise_quantizer")
    )


def _has_binary_input(layer: keras.layers.Layer) -> bool:
    """Whether a layer's input is of one bit, as far as its quantizer or the layer before tells."""
    quantizer = getattr(layer, "input_quantizer", None)
    if quantizer is not None:
        return getattr(quantizer, "precision", 1) == 1
    before = layer.inbound_nodes[0].keras_inputs[0].node.layer
    quantizers = (before, getattr(before, "activation", None))
    return isinstance(before, RSign) or any(
        getattr(quantizer, "precision", None) == 1 for quantizer in quantizers
    )


def is_binary_or_real(layer: keras.layers.Layer) -> bool:
    """Whether a kernel has no quantizer, or one that leaves one magnitude in each filter."""
    return not is_binary(layer) or signs_and_scales(_quantized_kernel(layer)) is not None


def signs_and_scales(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Signs int8 `[..., out]` and scales float32 `[out]` whose product is a kernel `[..., out]`.

    # Returns
        `None` if a filter has weights of several magnitudes.
    """
    if kernel.ndim < 2:
        return None
    magnitudes = np.abs(kernel).reshape(-1, kernel.shape[-1])
    scales = magnitudes.max(axis=0)
    if not np.allclose(magnitudes, scales, rtol=1e-5, atol=0):
        return None
    return np.where(kernel < 0, -1, 1).astype(np.int8), scales.astype(np.float32)


def _quantized_kernel(layer: lq.layers.QuantConv2D | lq.layers.QuantDense) -> np.ndarray:
    return layer.kernel_quantizer(tf.constant(layer.kernel.numpy())).numpy()


def _signs_and_scales(layer: lq.layers.QuantConv2D | lq.layers.QuantDense) -> Values:
    """Signs `[out, ...]` and the scale of each filter; no scales if they are 1 by definition."""
    binary = signs_and_scales(_quantized_kernel(layer))
    assert binary is not None  # `is_binary_or_real`
    signs, scales = binary
    values = {"kernel": np.moveaxis(signs, -1, 0)}
    if not isinstance(layer.kernel_quantizer, (lq.quantizers.SteSign, lq.quantizers.ApproxSign)):
        values["filter_scale"] = scales
    return values


def _in_int8(values: Values) -> Values:
    """The kernel `[out, ...]` as int8, and the scale of each output."""
    kernel = values["kernel"].reshape(len(values["kernel"]), -1)
    largest = np.abs(kernel).max(axis=1, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    rounded = np.rint(kernel / scale).astype(np.int8).reshape(values["kernel"].shape)
    return {**values, "kernel": rounded, "filter_scale": scale[:, 0]}


def refuse(layer: keras.layers.Layer, why: str, way_out: str) -> NoReturn:
    """Raises the `EnsembleError` of a layer that can't be converted."""
    raise EnsembleError(
        f"Layer {layer.name!r} ({type(layer).__name__}), each member's own, can't be converted: "
        f"{why}. To convert it, {way_out}."
    )
