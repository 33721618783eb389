"""Layers that LCE 0.16.0 converts or computes wrongly, expressed with other operators."""

from __future__ import annotations

import numpy as np

from larq_ensemble.convert.frontend.lowerings import filter_extents, quantized_input, same_paddings
from larq_ensemble.keras import keras, lq, tf


def is_miscomputed(layer: keras.layers.Layer, x: tf.Tensor) -> bool:
    """Whether LCE's kernels compute a layer wrongly.

    They correct the border of zero-padded binary convolutions wrongly, on x86 and on ARM, if the
    input is smaller than the (dilated) filter. Other sizes and padding with ones are right.
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


def one_padded(layer: lq.layers.QuantConv2D, x: tf.Tensor, zero: tf.Tensor) -> tf.Tensor:
    """A zero-padded binary convolution as a one-padded one, less what the ones add.

    `conv(pad_0(x)) = conv(pad_1(x)) - conv(pad_1(0))`, where the last term is a constant.

    # Arguments
        layer: the convolution.
        x: its input.
        zero: see `hidden`.
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


def is_padding_of_strided_convolution(layer: keras.layers.Layer) -> bool:
    """Whether LCE would convert a convolution after this layer wrongly.

    It fuses zero padding and a convolution without padding into one with padding "same", even if
    "same" pads other sides because of the stride.
    """
    return isinstance(layer, keras.layers.ZeroPadding2D) and any(
        isinstance(node.layer, keras.layers.Conv2D) and max(node.layer.strides) > 1
        for node in layer.outbound_nodes
    )


def padded_in_two_steps(layer: keras.layers.ZeroPadding2D, x: tf.Tensor) -> tf.Tensor:
    """Zero padding as two operators, which LCE doesn't fuse with a convolution."""
    rows, columns = layer.padding
    return tf.pad(tf.pad(x, [[0, 0], rows, [0, 0], [0, 0]]), [[0, 0], [0, 0], columns, [0, 0]])


def cropped(layer: keras.layers.RandomCrop, x: tf.Tensor) -> tf.Tensor:
    """What `RandomCrop` does in inference: the middle of the image, resized.

    Its `call` has the random branch in the graph too, whose random state can't be exported.
    """
    return keras.preprocessing.image.smart_resize(x, (layer.height, layer.width))
