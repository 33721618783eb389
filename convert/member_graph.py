"""The member-indexed network: one member's graph, whose own values are rows of constant tables.

A straight conversion of an M-branch ensemble takes minutes and copies every folded shortcut M
times. Here the graph of *one* member has a second input, `member`, and everything that differs
between members is looked up by it:

    scale, offset, ... = rows of tables at `member`
    y = x * scale + offset          # e.g. batch normalization

so the file has every shared filter once and one graph, whatever M is. `larq_ensemble.convert.tables` has the
tables; here is what stands in them and what each layer computes from its values.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from larq_ensemble.convert.categories import Category, category_of
from larq_ensemble.convert.handlers import (
    HANDLERS,
    BatchNormalizationHandler,
    Handler,
    Int8DenseHandler,
    Values,
    filter_extents,
    quantized_input,
    refuse,
    same_paddings,
)
from larq_ensemble.convert.tables import COMPACT_BITS, Tables
from larq_ensemble.convert.thresholds import ThresholdHandler, prelu_before
from larq_ensemble.ensembles import Ensemble
from larq_ensemble.ensembles.names import own_name
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.models.functional import layer_graph, run_functional
from larq_ensemble.network.graph import Content, LayerGraph, Role, Stored

# What members own as vectors, one value a channel or a class.
_VECTORS = {Content.NORM, Content.ACTIVATION, Content.BIAS, Content.FILTER_SCALE}


class MemberGraph:
    """The member-indexed network of an ensemble.

    # Arguments
        view: the ensemble.
        mean, std: of the input on the scale 0..1, one number a channel; the graph computes
            `(image / 255 - mean) / std`.
        heads: number format of the last linear layer's weights, `"float32"` or `"int8"`.
        precision: of the members' vectors, `"float32"` or `"compact"`; see `larq_ensemble.convert.tables`.

    # Attributes
        signature: `tf.function` with the inputs `image` (float32 `[1, h, w, c]`, values 0..255)
            and `member` (int32 `[1]`) and the output `logits` (float32 `[1, classes]`).
        input_shape: `(height, width, channels)`.
        tables: the members' own values.
        theory_parts: bytes that hold the values of the ensemble at least, by what they are for;
            `shared_` ones once, `member_` ones for all members together.
        rewrites: how often each way to compute less applied here, see `larq_ensemble.convert.rewrites`.

    # Raises
        EnsembleError: if a member owns a layer that can't be looked up, or the input is no image.
    """

    def __init__(
        self,
        view: Ensemble,
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
        self._precision = precision
        self._within_thresholds: set[str] = set()
        self.rewrites: Counter[str] = Counter()
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
        copies_of = {name: [layers[name] for layers in own] for name in own[0]}
        handlers = {name: self._handler(copies) for name, copies in copies_of.items()}
        for name, copies in copies_of.items():
            if copies[0].name not in self._within_thresholds:
                self._add(copies, handlers[name])
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

    def _add(self, copies: Sequence[keras.layers.Layer], handler: Handler) -> None:
        """Puts the values of one layer of the members' own into the tables."""
        name = copies[0].name
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
            refuse(
                layer,
                f"no way is known to look up the weights of a {type(layer).__name__} by member",
                "share it, or add a larq_ensemble.convert.handlers.Handler for its type to HANDLERS",
            )
        if type(handler) is BatchNormalizationHandler:
            # Behind a PReLU thresholds of members may lie far apart: not for a few bits a value.
            threshold = ThresholdHandler.of(copies, through_prelu=self._precision == "float32")
            if threshold is not None:
                self._note_threshold(threshold, layer)
                return threshold
        if layer is self._int8_head:
            return Int8DenseHandler()
        return handler

    def _note_threshold(self, handler: ThresholdHandler, norm: keras.layers.Layer) -> None:
        self.rewrites["threshold_norms"] += 1
        prelu = prelu_before(norm) if handler.behind_prelu else None
        if prelu is not None:
            self.rewrites["threshold_prelus"] += 1
            self._within_thresholds.add(prelu.name)

    def _logits(self, image: tf.Tensor, member: tf.Tensor) -> dict[str, tf.Tensor]:
        index = tf.reshape(member, [])
        rows = self.tables.rows(index)
        zero = tf.minimum(index, 0)

        def call(layer: keras.layers.Layer, args: Any, kwargs: Any) -> Any:
            if layer.name in self._within_thresholds:
                return args[0]
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
        and any(
            size < extent for size, extent in zip(x.shape[1:3], filter_extents(layer), strict=True)
        )
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
    paddings = same_paddings(layer, x)

    def convolved(values: tf.Tensor) -> tf.Tensor:
        padded = tf.pad(values, paddings, constant_values=1.0)
        return tf.nn.conv2d(padded, kernel, layer.strides, "VALID", dilations=layer.dilation_rate)

    with tf.init_scope():
        of_ones = convolved(tf.zeros(x.shape)).numpy()[0]
    outputs = convolved(quantized_input(layer, x))
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
            `larq_ensemble.convert.packing` puts the constant back in.
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


def _theory_parts(graph: LayerGraph, view: Ensemble, heads: str, precision: str) -> dict[str, int]:
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
