"""Fused activations of binarized networks, for training on CPUs.

TensorFlow computes a sign, its straight-through estimator and PReLU as chains of small operators.
Each reads and writes a whole feature map, and together they take as long as the convolutions. Here
each is one loop, forward and backward, compiled by XLA. The values are those of the layers that
they replace, except that sums are rounded in another order.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.layers import PReLU
from larq_ensemble.models.functional import (
    has_input_quantizer,
)

Gradient = Callable[[tf.Tensor], Any]


def ste_sign(x: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """`larq.quantizers.ste_sign`: 1 where x >= 0, else -1; gradient 1 where |x| <= 1, else 0.

    # Arguments
        x: float32.
        dtype: of the result and of its gradient, for example bfloat16.
    """

    @tf.custom_gradient
    def sign(x: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        return _sign(x, dtype), lambda upstream: _ste_gradient(x, upstream)

    return sign(x)


def approx_sign(x: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """`larq.quantizers.approx_sign`: as `ste_sign`, but with the gradient max(2 - 2 |x|, 0)."""

    @tf.custom_gradient
    def sign(x: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        return _sign(x, dtype), lambda upstream: _approx_gradient(x, upstream)

    return sign(x)


def prelu(
    x: tf.Tensor, alpha: tf.Tensor, scale: tf.Tensor, *, slope_at_zero: bool = False
) -> tf.Tensor:
    """`max(x s, 0) + alpha * min(x s, 0)`, with gradient 0 at x = 0 as in Keras.

    The gradient there matters, because sums of signs are often 0.

    # Arguments
        x: float32 or bfloat16 [n, ..., channels].
        alpha: float32 of the shape of one x, with size 1 on shared axes.
        scale: s, float32 [channels] or 1; it gets no gradient.
        slope_at_zero: the gradient at x = 0 is alpha s, as in `larq_ensemble.layers.PReLU`.

    # Returns
        float32.
    """
    of_x = _prelu_gradient_with_slope if slope_at_zero else _prelu_gradient

    @tf.custom_gradient
    def prelu(x: tf.Tensor, alpha: tf.Tensor, scale: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, None]:
            of_alpha = tf.reduce_sum(_prelu_alpha_gradients(x, alpha, scale, upstream), 0)
            return of_x(x, alpha, scale, upstream), of_alpha, None

        return _prelu(x, alpha, scale), gradient

    return prelu(x, alpha, scale)


@tf.custom_gradient
def scaled(x: tf.Tensor, scale: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """`x s` as float32; arguments as for `prelu`."""
    return _scaled(x, scale), lambda upstream: (_scaled_gradient(x, scale, upstream), None)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return tf.function(function, jit_compile=True, autograph=False)


@_compiled
def _sign(x: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    one = tf.ones((), dtype)
    return tf.where(x >= 0, one, -one)


@_compiled
def _ste_gradient(x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    return tf.where(tf.abs(x) <= 1, tf.cast(upstream, x.dtype), tf.zeros((), x.dtype))


@_compiled
def _approx_gradient(x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    return tf.maximum(2 - 2 * tf.abs(x), 0) * tf.cast(upstream, x.dtype)


@_compiled
def _prelu(x: tf.Tensor, alpha: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    x = tf.cast(x, tf.float32) * scale
    return tf.where(x >= 0, x, x * alpha)


@_compiled
def _prelu_gradient(
    x: tf.Tensor, alpha: tf.Tensor, scale: tf.Tensor, upstream: tf.Tensor
) -> tf.Tensor:
    sign = tf.sign(tf.cast(x, tf.float32))
    # Nested selections would not be vectorized.
    x_gradient = tf.where(sign > 0, upstream, upstream * alpha) * (tf.abs(sign) * scale)
    return tf.cast(x_gradient, x.dtype)


@_compiled
def _prelu_gradient_with_slope(
    x: tf.Tensor, alpha: tf.Tensor, scale: tf.Tensor, upstream: tf.Tensor
) -> tf.Tensor:
    return tf.cast(tf.where(x > 0, upstream, upstream * alpha) * scale, x.dtype)


@_compiled
def _prelu_alpha_gradients(
    x: tf.Tensor, alpha: tf.Tensor, scale: tf.Tensor, upstream: tf.Tensor
) -> tf.Tensor:
    """The gradients of alpha for each image: XLA would sum over all images in a single thread.

    A separate loop, because a single loop for this and the gradient of x takes longer than two.
    """
    alpha_gradient = tf.minimum(tf.cast(x, tf.float32) * scale, 0) * upstream
    shared = [axis for axis, size in enumerate(alpha.shape, start=1) if size == 1]
    return tf.reduce_sum(alpha_gradient, shared, keepdims=True)


@_compiled
def _scaled(x: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.float32) * scale


@_compiled
def _scaled_gradient(x: tf.Tensor, scale: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    return tf.cast(upstream * scale, x.dtype)


def fused_prelu(layer: keras.layers.Layer) -> Callable[..., tf.Tensor] | None:
    """The fused form of a PReLU: (x, alpha, scale) -> output; `None` for another layer or dtype."""
    if layer.compute_dtype != "float32" or layer.activity_regularizer is not None:
        return None
    if type(layer) is keras.layers.PReLU:
        return prelu
    return functools.partial(prelu, slope_at_zero=True) if type(layer) is PReLU else None


def fused_sign(layer: keras.layers.Layer) -> Callable[..., tf.Tensor] | None:
    """The fused form of a Larq layer's input quantizer; `None` if there is none."""
    quantizer = layer.input_quantizer if has_input_quantizer(layer) else None
    if quantizer is None or hasattr(quantizer, "flip_ratio") or layer.compute_dtype != "float32":
        return None
    if type(quantizer) is lq.quantizers.SteSign and quantizer.clip_value == 1:
        return ste_sign
    return approx_sign if type(quantizer) is lq.quantizers.ApproxSign else None


def cropped(layer: keras.layers.Layer) -> Callable[[tf.Tensor], tf.Tensor] | None:
    """`Cropping2D` as one slice, whose gradient TensorFlow computes as a padding, which is faster.

    `None` for another layer.
    """
    if type(layer) is not keras.layers.Cropping2D or layer.data_format != "channels_last":
        return None
    (top, bottom), (left, right) = layer.cropping

    def crop(x: tf.Tensor) -> tf.Tensor:
        removed = tf.constant([0, top + bottom, left + right, 0])
        return tf.slice(x, [0, top, left, 0], tf.shape(x) - removed)

    return crop


@contextlib.contextmanager
def given(layer: keras.layers.Layer, values: Mapping[str, Any]) -> Iterator[None]:
    """Replaces attributes of a layer within the block.

    Not by `setattr`, or Keras would untrack the layer's weights.
    """
    attributes = vars(layer)
    before = {name: attributes[name] for name in values}
    attributes.update(values)
    try:
        yield
    finally:
        attributes.update(before)
