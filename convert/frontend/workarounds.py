"""Layers that LCE 0.16.0 converts or computes wrongly, expressed with other operators."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from larq_ensemble.convert.frontend.any_layer import quantized
from larq_ensemble.convert.frontend.lowerings import (
    filter_extents,
    quantized_input,
    same_paddings,
    signs_and_scales,
)
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.models.functional import computes_as, is_operator

_ARITHMETIC = tuple(
    f"{module}.{name}"
    for module, names in (
        ("__operators__", ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv")),
        ("math", ("add", "subtract", "multiply", "divide")),
    )
    for name in names
)
#: `tf.pad`, as Keras records it in a functional model.
_PADS = {"pad": tf.pad, "compat.v1.pad": tf.compat.v1.pad}


def is_miscomputed(layer: keras.layers.Layer, x: tf.Tensor) -> bool:
    """Whether LCE's kernels compute a layer wrongly.

    They correct the border of zero-padded binary convolutions wrongly, on x86 and on ARM, if the
    input is smaller than the (dilated) filter. Other sizes and padding with ones are right.
    """
    return (
        computes_as(layer, keras.layers.Conv2D, lq.layers.QuantConv2D)
        and layer.data_format == "channels_last"
        and layer.padding == "same"
        and not getattr(layer, "pad_values", 0)
        and any(
            size < extent for size, extent in zip(x.shape[1:3], filter_extents(layer), strict=True)
        )
        and signs_and_scales(quantized(layer.kernel)) is not None
    )


def one_padded(layer: lq.layers.QuantConv2D, x: tf.Tensor, zero: tf.Tensor) -> tf.Tensor:
    """A zero-padded binary convolution as a one-padded one, less what the ones add.

    `conv(pad_0(x)) = conv(pad_1(x)) - conv(pad_1(0))`, where the last term is a constant.

    # Arguments
        layer: the convolution.
        x: its input.
        zero: see `hidden`.
    """
    with tf.init_scope():
        kernel = tf.constant(quantized(layer.kernel))
    paddings = same_paddings(layer, x)

    def convolved(values: tf.Tensor) -> tf.Tensor:
        padded = tf.pad(values, paddings, constant_values=1.0)
        return tf.nn.conv2d(padded, kernel, layer.strides, "VALID", dilations=layer.dilation_rate)

    with tf.init_scope():
        of_ones = convolved(tf.zeros(x.shape)).numpy()[0]
    outputs = convolved(quantized_input(layer, x))
    # LCE would make a plain constant the convolution's bias, whose rank then is wrong.
    outputs -= hidden(of_ones, zero)
    if layer.use_bias:
        outputs += layer.bias
    return layer.activation(outputs)


def hidden(constant: np.ndarray, zero: tf.Tensor) -> tf.Tensor:
    """A constant as a lookup, which the converter does not fold.

    # Arguments
        constant: any array.
        zero: int32 of rank 0, `min(member, 0)`: always 0, which the converter can't know.
            `larq_ensemble.convert.passes.constant_lookups` puts the constant back in.
    """
    return tf.gather(constant[np.newaxis], zero)


def with_hidden_maps(
    layer: keras.layers.Layer, args: Any, kwargs: Any, zero: tf.Tensor
) -> tuple[Any, Any]:
    """The arguments of a layer; of sums and products with the constants of several axes hidden.

    LCE would make them multiplier or bias of a binary convolution before, which are vectors.

    # Arguments
        layer: any layer.
        args, kwargs: what it is called with.
        zero: see `hidden`.
    """
    if not is_operator(layer, *_ARITHMETIC):
        return args, kwargs

    def argument(value: Any) -> Any:
        # A constant of a copied network is a list.
        if isinstance(value, (np.ndarray, list)) or hasattr(value, "numpy"):
            constant = np.asarray(value)
            if constant.ndim > 1:
                return hidden(constant.astype(layer.dtype), zero)
        return value

    return [*map(argument, args)], {name: argument(value) for name, value in kwargs.items()}


def is_padding(layer: keras.layers.Layer) -> bool:
    """Whether LCE may convert what follows this layer, which pads, wrongly.

    It fuses padding and a convolution without padding into one with padding "same", even if "same"
    pads other sides because of the stride.
    """
    pads = is_operator(layer, *_PADS) or (
        computes_as(layer, keras.layers.ZeroPadding2D) and layer.data_format == "channels_last"
    )
    return pads and not all(_has_no_strides(node.layer) for node in layer.outbound_nodes)


def _has_no_strides(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.Conv2D) and max(layer.strides) == 1


def padded_in_two_steps(layer: keras.layers.Layer, args: Any, kwargs: Any) -> tf.Tensor:
    """Padding as two operators, which LCE doesn't fuse with a convolution.

    # Arguments
        layer: a ZeroPadding2D or `tf.pad`.
        args, kwargs: what it is called with.
    """
    if isinstance(layer, keras.layers.ZeroPadding2D):
        paddings, options = [(0, 0), *layer.padding, (0, 0)], {}
        x = args[0]
    else:
        function = _PADS[layer.get_config()["function"]]
        options = inspect.signature(function).bind(*args, **kwargs).arguments
        x, paddings = options.pop("tensor"), options.pop("paddings")
    rows, columns = np.array(paddings, np.int32), np.array(paddings, np.int32)
    rows[2:], columns[:2] = 0, 0
    return tf.pad(tf.pad(x, rows, **options), columns, **options)


@contextlib.contextmanager
def right_ternary(network: keras.Model) -> Iterator[None]:
    """Within the block, the network's ternary quantizers are operators that LCE computes right.

    LCE takes any `sign(sign(a) + b)` for the sign of a, and so `SteTern`, which is
    `sign(sign(x + t) + sign(x - t))`.
    """
    quantizers = [part for part in network.submodules if type(part) is lq.quantizers.SteTern]
    for quantizer in quantizers:
        vars(quantizer)["call"] = partial(_ternary, quantizer)
    try:
        yield
    finally:
        for quantizer in quantizers:
            del vars(quantizer)["call"]


def _ternary(quantizer: lq.quantizers.SteTern, inputs: tf.Tensor) -> tf.Tensor:
    """`SteTern.call`: 1 where x >= t, -1 where x <= -t, else 0."""
    threshold = quantizer.threshold_value
    if quantizer.ternary_weight_networks:
        threshold = 0.7 * tf.reduce_mean(tf.abs(inputs))
    above, below = inputs >= threshold, inputs <= -threshold
    return tf.cast(above, inputs.dtype) - tf.cast(below, inputs.dtype)


def cropped(layer: keras.layers.RandomCrop, x: tf.Tensor) -> tf.Tensor:
    """What `RandomCrop` does in inference: the middle of the image, resized.

    Its `call` has the random branch in the graph too, whose random state can't be exported.
    """
    return keras.preprocessing.image.smart_resize(x, (layer.height, layer.width))
