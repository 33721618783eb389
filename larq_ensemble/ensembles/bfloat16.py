"""Convolutions in bfloat16, for training on CPUs that are faster in it (AVX512_BF16, AMX).

Operands and results are rounded to 8 bits, sums within a convolution are not. So are the gradients
of both. Signs are exact. Variables, their gradients' use and all that is between convolutions stay
float32.
"""

from __future__ import annotations

import functools
import time
import warnings

from larq_ensemble.ensembles.fused_activations import given
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.models.functional import has_input_quantizer

#: With fewer input channels, such as the three of an image, there is nothing to gain.
_LEAST_CHANNELS = 16
#: Where gradients in bfloat16 are emulated it is above 4, where they aren't about 1 or less.
_MOST_SLOWDOWN = 3


def check_computes_bfloat16() -> None:
    """Warns once if bfloat16 is slow on this machine.

    # Raises
        EnsembleError: if TensorFlow can't compute convolutions in bfloat16 on this machine.
    """
    try:
        warn_where_slow()
    except tf.errors.OpError as error:
        raise EnsembleError(
            f"TensorFlow can't compute convolutions in bfloat16 here ({error.message}): leave "
            "`bfloat16` out."
        ) from error


@functools.cache
def warn_where_slow() -> None:
    """Warns if `slowdown` is large; once in a process."""
    slower = slowdown()
    if slower > _MOST_SLOWDOWN:
        warnings.warn(
            f"This machine takes {slower:.0f} times as long for convolutions in bfloat16 as in "
            "float32, as CPUs without AVX512_BF16 and AMX do: leave `bfloat16` out.",
            stacklevel=3,
        )


def slowdown() -> float:
    """The time of a convolution and its gradients in bfloat16, divided by that in float32.

    Measured in some 0.3 s. Without instructions for it, the gradients are what is slow.
    """
    seconds = {}
    for dtype in (tf.float32, tf.bfloat16):
        x, kernel = tf.ones([32, 16, 16, 32], dtype), tf.ones([3, 3, 32, 32], dtype)
        times = []
        for _ in range(3):  # the first one also prepares the operators
            start = time.perf_counter()
            with tf.GradientTape() as tape:
                tape.watch([x, kernel])
                y = tf.nn.conv2d(x, kernel, 1, "SAME")
            for gradient in tape.gradient(y, [x, kernel]):
                gradient.numpy()
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    return seconds[tf.bfloat16] / seconds[tf.float32]


def check_bfloat16(network: keras.Model) -> None:
    """# Raises
    EnsembleError: if no layer of a single network can compute in bfloat16, or this machine can't.
    """
    check_computes_bfloat16()
    if not any(map(is_for_bfloat16, network.layers)):
        raise EnsembleError(
            f"`bfloat16` is for convolutions of at least {_LEAST_CHANNELS} input channels, without "
            "groups and activation, and this network has none: leave it out."
        )


def is_for_bfloat16(layer: keras.layers.Layer) -> bool:
    """Whether `convolved` can stand for a layer and may be faster."""
    return (
        type(layer) in (keras.layers.Conv2D, lq.layers.QuantConv2D)
        and layer.compute_dtype == "float32"
        and layer.data_format == "channels_last"
        and layer.groups == 1
        and layer.activation is keras.activations.linear
        and layer.activity_regularizer is None
        and not getattr(layer, "_metrics", ())
        and layer.kernel.shape[-2] >= _LEAST_CHANNELS
    )


def convolved(layer: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
    """What the layer makes of its input, computed in bfloat16.

    # Arguments
        layer: see `is_for_bfloat16`.
        x: [n, height, width, channels], after the layer's input quantizer.

    # Returns
        float32.
    """
    kernel, quantizer = tf.convert_to_tensor(layer.kernel), getattr(layer.kernel, "quantizer", None)
    kernel = kernel if quantizer is None else quantizer(kernel)
    plain = {"kernel": tf.cast(kernel, tf.bfloat16), "use_bias": False}
    if has_input_quantizer(layer):
        plain["input_quantizer"] = None
    with given(layer, plain):
        outputs = tf.cast(layer.call(tf.cast(x, tf.bfloat16)), tf.float32)
    return outputs if layer.bias is None else tf.nn.bias_add(outputs, layer.bias)
