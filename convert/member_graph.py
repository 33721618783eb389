"""The member-indexed network: one member's graph, whose own values are rows of constant tables.

A straight conversion of an M-branch ensemble takes minutes and copies every folded shortcut M
times. Here the graph of *one* member has a second input, `member`, and everything that differs
between members is looked up by it:

    scale, offset, ... = rows of tables at `member`
    y = x * scale + offset          # e.g. batch normalization

so the file has every shared filter once and one graph, whatever M is. `convert.tables` has the
tables; here is what stands in them and what each layer computes from its values.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np

from convert.categories import Category, category_of
from convert.tables import COMPACT_BITS, Tables
from larq_ensemble.ensemble import EnsembleView, own_name
from larq_ensemble.errors import EnsembleError
from larq_ensemble.functional import layer_graph, run_functional
from larq_ensemble.graph import Content, LayerGraph, Role, Stored
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.layers import RPReLU, RSign

Values = dict[str, np.ndarray]
Rows = Mapping[str, tf.Tensor]

_SIGNS = (lq.quantizers.SteSign, lq.quantizers.ApproxSign, lq.quantizers.SwishSign)
# Far beyond any activation, and a half float can hold it.
_LARGEST_THRESHOLD = 60_000
# What members own as vectors, one value a channel or a class.
_VECTORS = {Content.NORM, Content.ACTIVATION, Content.BIAS, Content.FILTER_SCALE}


class Handler(ABC):
    """How a layer type of a member's own is computed from looked-up values.

    A new layer type is added with `HANDLERS[LayerType] = SomeHandler()`.
    """

    @abstractmethod
    def values(self, layer: keras.layers.Layer) -> Values:
        """What differs between members, by name.

        Arrays of rank 1 share one table; every other array gets a table of its own. A name and
        its shape must be the same for each member's copy of the layer.

        # Raises
            EnsembleError: for a configuration that can't be converted.
        """

    @abstractmethod
    def apply(self, layer: keras.layers.Layer, x: tf.Tensor, rows: Rows) -> tf.Tensor:
        """The layer's output in inference, from one member's `values` as tensors."""


class BatchNormalizationHandler(Handler):
    """`x * scale + offset`, `scale = gamma / sqrt(var + eps)`, `offset = beta - mean * scale`."""

    def values(self, layer: keras.layers.BatchNormalization) -> Values:
        axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
        if axis not in (-1, layer.input_spec.ndim - 1):
            _refuse(layer, f"it normalizes axis {axis}, not the last one", "use axis=-1")
        return {name: value.astype(np.float32) for name, value in _folded(layer).items()}

    def apply(self, layer: keras.layers.Layer, x: tf.Tensor, rows: Rows) -> tf.Tensor:
        return x * rows["scale"] + rows["offset"]


class NormBeforeSignHandler(BatchNormalizationHandler):
    """`x + offset / scale`: batch normalization with `scale > 0` of which only the sign is read."""

    def values(self, layer: keras.layers.BatchNormalization) -> Values:
        folded = _folded(layer)
        return {"offset": (folded["offset"] / folded["scale"]).astype(np.float32)}

    def apply(self, layer: keras.layers.Layer, x: tf.Tensor, rows: Rows) -> tf.Tensor:
        return x + rows["offset"]


class PReLUHandler(Handler):
    """`relu(x) - alpha * relu(-x)`, which packing turns into one PRELU."""

    def values(self, layer: keras.layers.PReLU) -> Values:
        alpha = layer.alpha.numpy()
        # An alpha that is shared over height and width is a vector, or one number.
        return {"alpha": alpha.reshape(-1) if alpha.size == alpha.shape[-1] else alpha}

    def apply(self, layer: keras.layers.Layer, x: tf.Tensor, rows: Rows) -> tf.Tensor:
        return tf.nn.relu(x) - rows["alpha"] * tf.nn.relu(-x)


class RSignHandler(Handler):
    """`sign(x + offset)`, `offset = -threshold`: an addition of a row is cheaper than a SUB."""

    def values(self, layer: RSign) -> Values:
        return {"offset": -layer.threshold.numpy()}

    def apply(self, layer: RSign, x: tf.Tensor, rows: Rows) -> tf.Tensor:
        return lq.quantizers.approx_sign(x + rows["offset"])


class RPReLUHandler(Handler):
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


class DenseHandler(Handler):
    """`activation(x W + b)`; W is stored transposed, as FULLY_CONNECTED reads it.

    Of a binarized W the signs and each unit's scale are looked up.
    """

    def values(self, layer: keras.layers.Dense) -> Values:
        values = (
            _signs_and_scales(layer) if _is_binary(layer) else {"kernel": layer.kernel.numpy().T}
        )
        if layer.use_bias:
            values["bias"] = layer.bias.numpy()
        return values

    def apply(self, layer: keras.layers.Dense, x: tf.Tensor, rows: Rows) -> tf.Tensor:
        x = _quantized_input(layer, x)
        rows_of_inputs = tf.reshape(x, [-1, x.shape[-1]])
        kernel = tf.cast(rows["kernel"], x.dtype)
        outputs = tf.linalg.matmul(rows_of_inputs, kernel, transpose_b=True)
        if "filter_scale" in rows:
            outputs *= rows["filter_scale"]
        if layer.use_bias:
            outputs += rows["bias"]
        return layer.activation(tf.reshape(outputs, [*x.shape[:-1], layer.units]))


class Int8DenseHandler(DenseHandler):
    """`activation((x Q) * scale + b)`: integers Q from -127 to 127, a scale for each output.

    The rounded weights are the only loss: inputs, products and sums stay float32.
    """

    def values(self, layer: keras.layers.Dense) -> Values:
        if _is_binary(layer):
            raise EnsembleError(
                f"Layer {layer.name!r} ({type(layer).__name__}) can't have int8 weights: it is "
                'binarized. Convert with heads="float32".'
            )
        values = super().values(layer)
        largest = np.abs(values["kernel"]).max(axis=1, keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        values["kernel"] = np.rint(values["kernel"] / scale).astype(np.int8)
        return {**values, "filter_scale": scale[:, 0]}


class Conv2DHandler(Handler):
    """A 2D convolution; filters are stored as `[out, h, w, in]`, as CONV_2D reads them.

    Of a binarized convolution the signs of its filters are looked up, int8 here and one bit each
    after packing. It is computed with them as floats, because LceBconv2d reads its filters only
    once; the layouts without a lookup make an LceBconv2d of it, see `convert.layouts`.
    """

    def values(self, layer: keras.layers.Conv2D) -> Values:
        if layer.groups != 1:
            _refuse(layer, f"it has {layer.groups} groups", "share it")
        if layer.data_format != "channels_last":
            _refuse(layer, f"its data format is {layer.data_format}", "use channels_last")
        if _is_binary(layer):
            values = _signs_and_scales(layer)
        else:
            values = {"kernel": layer.kernel.numpy().transpose(3, 0, 1, 2)}
        if layer.use_bias:
            values["bias"] = layer.bias.numpy()
        return values

    def apply(self, layer: keras.layers.Conv2D, x: tf.Tensor, rows: Rows) -> tf.Tensor:
        x, padding = _quantized_input(layer, x), layer.padding.upper()
        if padding == "SAME" and getattr(layer, "pad_values", 0):
            x = tf.pad(x, _same_paddings(layer, x), constant_values=layer.pad_values)
            padding = "VALID"
        outputs = tf.nn.conv2d(
            x,
            # The converter transposes back: the two cancel out and leave the gathered filter.
            tf.transpose(tf.cast(rows["kernel"], x.dtype), [1, 2, 3, 0]),
            strides=layer.strides,
            padding=padding,
            dilations=layer.dilation_rate,
        )
        if "filter_scale" in rows:
            outputs *= rows["filter_scale"]
        if layer.use_bias:
            outputs += rows["bias"]
        return layer.activation(outputs)


class DepthwiseConv2DHandler(Handler):
    """A real-valued convolution of each channel by itself; filters as `[h, w, channels, n]`."""

    def values(self, layer: keras.layers.DepthwiseConv2D) -> Values:
        if layer.data_format != "channels_last":
            _refuse(layer, f"its data format is {layer.data_format}", "use channels_last")
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


#: Layer type -> how a member's own layer of exactly this type is converted.
HANDLERS: dict[type, Handler] = {
    keras.layers.BatchNormalization: BatchNormalizationHandler(),
    keras.layers.PReLU: PReLUHandler(),
    RSign: RSignHandler(),
    RPReLU: RPReLUHandler(),
    keras.layers.Dense: DenseHandler(),
    lq.layers.QuantDense: DenseHandler(),
    keras.layers.Conv2D: Conv2DHandler(),
    lq.layers.QuantConv2D: Conv2DHandler(),
    keras.layers.DepthwiseConv2D: DepthwiseConv2DHandler(),
}


class MemberGraph:
    """The member-indexed network of an ensemble.

    # Arguments
        view: the ensemble.
        mean, std: of the input on the scale 0..1, one number a channel; the graph computes
            `(image / 255 - mean) / std`.
        heads: number format of the last linear layer's weights, `"float32"` or `"int8"`.
        precision: of the members' vectors, `"float32"` or `"compact"`; see `convert.tables`.

    # Attributes
        signature: `tf.function` with the inputs `image` (float32 `[1, h, w, c]`, values 0..255)
            and `member` (int32 `[1]`) and the output `logits` (float32 `[1, classes]`).
        input_shape: `(height, width, channels)`.
        tables: the members' own values.
        theory_parts: bytes that hold the values of the ensemble at least, by what they are for;
            `shared_` ones once, `member_` ones for all members together.

    # Raises
        EnsembleError: if a member owns a layer that can't be looked up, or the input is no image.
    """

    def __init__(
        self,
        view: EnsembleView,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        heads: str = "float32",
        precision: str = "float32",
    ) -> None:
        network = view.member(0)
        self.input_shape = _image_shape(network)
        self._normalization = _normalization(mean, std, self.input_shape[-1])
        self._network = network
        self._graph = layer_graph(network)
        self._int8_head = self._head() if heads == "int8" else None
        self.tables = Tables(precision)
        self._lookups: dict[str, tuple[Handler, list[str]]] = {}
        self._shared_head: Values = {}
        self.shared_variables = [
            weight for layer in view.shared_layers() for weight in layer.weights
        ]
        own = [
            {layer.name.removeprefix(own_name(member, "")): layer for layer in layers}
            for member in range(view.members)
            for layers in [view.own_layers(member)]
        ]
        for name in own[0]:
            self._add([layers[name] for layers in own])
        if self._int8_head is not None and self._int8_head.name not in self._lookups:
            self._shared_head = self._handler([self._int8_head]).values(self._int8_head)
        self.theory_parts = _theory_parts(self._graph, view, heads, precision)
        self.signature = tf.function(
            self._logits,
            input_signature=[
                tf.TensorSpec([1, *self.input_shape], tf.float32, name="image"),
                tf.TensorSpec([1], tf.int32, name="member"),
            ],
            autograph=False,  # no Python control flow depends on tensors; it would take seconds
        )

    def _add(self, copies: Sequence[keras.layers.Layer]) -> None:
        """Puts the values of one layer of the members' own into the tables."""
        name = copies[0].name
        handler = self._handler(copies)
        each = [handler.values(copy) for copy in copies]
        self._lookups[name] = handler, list(each[0])
        node = self._graph[name]
        category = category_of(node, self._graph.roles[name])
        for key in each[0]:
            table = np.stack([values[key] for values in each])
            is_scale = node.binary and key == "filter_scale"
            self.tables.add(
                f"{name}/{key}", table, Category.FILTER_SCALES if is_scale else category
            )

    def _head(self) -> keras.layers.Layer:
        """The last linear layer."""
        (name,) = (name for name, role in self._graph.roles.items() if role is Role.HEAD)
        return self._network.get_layer(name)

    def _handler(self, copies: Sequence[keras.layers.Layer]) -> Handler:
        """How the members' copies of a layer are looked up."""
        layer = copies[0]
        handler = HANDLERS.get(type(layer))
        if handler is None:
            _refuse(
                layer,
                f"no way is known to look up the weights of a {type(layer).__name__} by member",
                "share it, or add a convert.member_graph.Handler for its type to HANDLERS",
            )
        if type(handler) is BatchNormalizationHandler and _are_norms_before_signs(copies):
            return NormBeforeSignHandler()
        if layer is self._int8_head:
            return Int8DenseHandler()
        return handler

    def _logits(self, image: tf.Tensor, member: tf.Tensor) -> dict[str, tf.Tensor]:
        index = tf.reshape(member, [])
        rows = self.tables.rows(index)
        zero = tf.minimum(index, 0)

        def call(layer: keras.layers.Layer, args: Any, kwargs: Any) -> Any:
            if layer.name in self._lookups:
                handler, names = self._lookups[layer.name]
                own = {name: rows[f"{layer.name}/{name}"] for name in names}
                return handler.apply(layer, args[0], own)
            if layer is self._int8_head:
                shared = {name: _hidden(value, zero) for name, value in self._shared_head.items()}
                return Int8DenseHandler().apply(layer, args[0], shared)
            if _is_miscomputed(layer, args[0]):
                return _one_padded(layer, args[0], zero)
            if _is_padding_of_strided_convolution(layer):
                return _padded_in_two_steps(layer, args[0])
            if "training" in inspect.signature(layer.call).parameters:
                kwargs = {**kwargs, "training": False}
            return layer(*args, **kwargs)

        network, (scale, offset) = self._network, self._normalization
        known = {network.inputs[0].ref(): image * scale + offset}
        (logits,) = run_functional(network.layers, known, network.outputs, call)
        return {"logits": logits}


def _image_shape(network: keras.Model) -> tuple[int, int, int]:
    shape = tuple(network.inputs[0].shape[1:])
    if len(network.inputs) != 1 or len(shape) != 3 or None in shape:
        raise EnsembleError(
            "Only networks with one input [n, height, width, channels] of known size can be "
            f"converted. Received: {[tuple(tensor.shape) for tensor in network.inputs]}."
        )
    return shape


def _normalization(
    mean: Sequence[float], std: Sequence[float], channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset of `(pixel / 255 - mean) / std`, float32 `[channels]`."""
    constants = {"mean": np.asarray(mean, np.float64), "std": np.asarray(std, np.float64)}
    for name, values in constants.items():
        if values.shape != (channels,) or not np.isfinite(values).all():
            raise EnsembleError(
                f"`{name}` must hold {channels} numbers, one a channel. "
                f"Received: {values.tolist()}."
            )
    if (constants["std"] <= 0).any():
        raise EnsembleError(f"`std` must be positive. Received: {list(std)}.")
    scale, offset = 1 / (255 * constants["std"]), -constants["mean"] / constants["std"]
    return scale.astype(np.float32), offset.astype(np.float32)


def _folded(layer: keras.layers.BatchNormalization) -> Values:
    """Inference's scale and offset in float64, `[channels]` each."""
    mean = layer.moving_mean.numpy().astype(np.float64)
    scale = 1 / np.sqrt(layer.moving_variance.numpy().astype(np.float64) + layer.epsilon)
    if layer.scale:
        scale *= layer.gamma.numpy()
    offset = -mean * scale
    if layer.center:
        offset += layer.beta.numpy()
    return {"scale": scale, "offset": offset}


def _quantized_input(layer: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
    quantizer = getattr(layer, "input_quantizer", None)
    return x if quantizer is None else quantizer(x)


def _is_miscomputed(layer: keras.layers.Layer, x: tf.Tensor) -> bool:
    """Whether LCE's kernels get this layer wrong.

    LCE 0.16.0 corrects the border of zero-padded binary convolutions wrongly, on x86 and on ARM,
    when the input is smaller than the (dilated) filter. Other sizes and one-padding are right.
    """
    return (
        isinstance(layer, lq.layers.QuantConv2D)
        and layer.kernel_quantizer is not None
        and layer.padding == "same"
        and not layer.pad_values
        and layer.groups == 1
        and any(size < extent for size, extent in zip(x.shape[1:3], _extents(layer), strict=True))
    )


def _one_padded(layer: lq.layers.QuantConv2D, x: tf.Tensor, zero: tf.Tensor) -> tf.Tensor:
    """A zero-padded binary convolution as a one-padded one, less what the ones add.

    `conv(pad_0(x)) = conv(pad_1(x)) - conv(pad_1(0))`, where the last term is a constant.

    # Arguments
        layer: the convolution.
        x: its input.
        zero: see `_hidden`.
    """
    with tf.init_scope():
        kernel = tf.constant(layer.kernel_quantizer(tf.constant(layer.kernel.numpy())).numpy())
    paddings = _same_paddings(layer, x)

    def convolved(values: tf.Tensor) -> tf.Tensor:
        padded = tf.pad(values, paddings, constant_values=1.0)
        return tf.nn.conv2d(padded, kernel, layer.strides, "VALID", dilations=layer.dilation_rate)

    with tf.init_scope():
        of_ones = convolved(tf.zeros(x.shape)).numpy()[0]
    outputs = convolved(_quantized_input(layer, x))
    # LCE would make a plain constant the convolution's bias, whose rank then is wrong.
    outputs -= _hidden(of_ones, zero)
    if layer.use_bias:
        outputs += layer.bias
    return layer.activation(outputs)


def _hidden(constant: np.ndarray, zero: tf.Tensor) -> tf.Tensor:
    """A constant that the converter takes for a looked-up value and so leaves alone.

    # Arguments
        constant: any array.
        zero: int32 of rank 0, `min(member, 0)`: always 0, which the converter can't know.
            `convert.packing` puts the constant back in.
    """
    return tf.gather(constant[np.newaxis], zero)


def _is_padding_of_strided_convolution(layer: keras.layers.Layer) -> bool:
    """Whether LCE would get a convolution behind this layer wrong.

    LCE 0.16.0 joins zero padding and a convolution without padding to one with padding "same",
    also where the stride makes "same" pad other sides.
    """
    return isinstance(layer, keras.layers.ZeroPadding2D) and any(
        isinstance(node.layer, keras.layers.Conv2D) and max(node.layer.strides) > 1
        for node in layer.outbound_nodes
    )


def _padded_in_two_steps(layer: keras.layers.ZeroPadding2D, x: tf.Tensor) -> tf.Tensor:
    """Zero padding as two operators, which LCE doesn't join to a convolution."""
    rows, columns = layer.padding
    return tf.pad(tf.pad(x, [[0, 0], rows, [0, 0], [0, 0]]), [[0, 0], [0, 0], columns, [0, 0]])


def _same_paddings(layer: keras.layers.Conv2D, x: tf.Tensor) -> list[list[int]]:
    """What padding="same" adds before and behind each axis of `x`."""
    paddings = [[0, 0]]
    for size, stride, extent in zip(x.shape[1:3], layer.strides, _extents(layer), strict=True):
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        paddings.append([total // 2, total - total // 2])
    return [*paddings, [0, 0]]


def _extents(layer: keras.layers.Conv2D) -> list[int]:
    """Height and width that a dilated filter covers."""
    sizes = zip(layer.kernel_size, layer.dilation_rate, strict=True)
    return [(size - 1) * dilation + 1 for size, dilation in sizes]


def _is_binary(layer: keras.layers.Layer) -> bool:
    return any(
        getattr(layer, name, None) is not None
        for name in ("kernel_quantizer", "depthwise_quantizer", "pointwise_quantizer")
    )


def _are_norms_before_signs(copies: Sequence[keras.layers.BatchNormalization]) -> bool:
    """Whether only the sign of these norms is read, and is that of `x + offset / scale`.

    A negative scale would turn the sign around, a tiny one would make the quotient overflow.
    """
    readers = [node.layer for node in copies[0].outbound_nodes]
    if not readers or not all(
        isinstance(getattr(reader, "input_quantizer", reader), _SIGNS) for reader in readers
    ):
        return False
    folded = [_folded(copy) for copy in copies]
    return all(
        (values["scale"] > 0).all()
        and (np.abs(values["offset"]) < _LARGEST_THRESHOLD * values["scale"]).all()
        for values in folded
    )


def _signs_and_scales(layer: lq.layers.QuantConv2D | lq.layers.QuantDense) -> Values:
    """Signs int8 `[out, ...]` and scales float32 `[out]` whose product is the binary kernel.

    The scales are left out where the quantizer gives nothing but signs.

    # Raises
        EnsembleError: if the quantizer gives a filter more than one magnitude.
    """
    kernel = layer.kernel_quantizer(tf.constant(layer.kernel.numpy())).numpy()
    kernel = np.moveaxis(kernel, -1, 0)
    scale = np.abs(kernel).reshape(len(kernel), -1).max(axis=1)
    if not np.allclose(np.abs(kernel).T, scale, rtol=1e-5, atol=0):
        _refuse(
            layer,
            "its kernel quantizer gives weights of several magnitudes in a filter",
            "binarize it with ste_sign or magnitude_aware_sign, or share it",
        )
    values = {"kernel": np.where(kernel < 0, -1, 1).astype(np.int8)}
    if not isinstance(layer.kernel_quantizer, (lq.quantizers.SteSign, lq.quantizers.ApproxSign)):
        values["filter_scale"] = scale.astype(np.float32)
    return values


def _theory_parts(
    graph: LayerGraph, view: EnsembleView, heads: str, precision: str
) -> dict[str, int]:
    """Bytes of the ensemble's values by owner and purpose, as the storage accounting counts them.

    1 bit a binary weight, 4 bytes a float; batch normalization folded to two values a channel.
    With int8 heads 1 byte a weight of the head and one more float a class; with the precision
    `compact` `COMPACT_BITS` for a value of a member's vector and 4 bytes a column that all share.
    """
    bits: Counter[str] = Counter()
    for node in graph:
        role = graph.roles[node.name]
        stored = node.stored
        if heads == "int8" and role is Role.HEAD:
            scales = Stored(Content.BIAS, view.classes, 32)
            stored = (
                *(replace(i, bits=8) if i.content is Content.LINEAR else i for i in stored),
                scales,
            )
        own = node.name.startswith(own_name(0, ""))
        for item in stored:
            name = category_of(node, role, item.content).value
            if own and precision == "compact" and item.content in _VECTORS:
                bits[f"member_{name}"] += item.count * COMPACT_BITS
                bits[f"shared_{name}"] += item.count * 32
            else:
                bits[f"{'member' if own else 'shared'}_{name}"] += item.total_bits
    return {
        name: -(-count // 8) * (view.members if name.startswith("member_") else 1)
        for name, count in bits.items()
    }


def _refuse(layer: keras.layers.Layer, why: str, way_out: str) -> NoReturn:
    raise EnsembleError(
        f"Layer {layer.name!r} ({type(layer).__name__}), each member's own, can't be converted: "
        f"{why}. Way out: {way_out}."
    )
