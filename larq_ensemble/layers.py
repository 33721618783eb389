"""Layers of binarized networks that Larq does not have, for any Keras or Larq network.

Importing this module registers them, so that Keras can load models that use them.
"""

from __future__ import annotations

from typing import Any

from larq_ensemble.keras import keras, lq, tf


@keras.utils.register_keras_serializable("larq_ensemble")
class RSign(keras.layers.Layer):
    r"""Sign with a learnable threshold for each channel (ReAct-Sign).

    \\[
    y = \begin{cases}
      -1 & x < \alpha_c \\\
      \hphantom{-}1 & x \geq \alpha_c
    \end{cases}
    \\]

    The gradient is that of `larq.quantizers.approx_sign`, with respect to \\(x - \alpha_c\\):

    \\[\frac{\partial y}{\partial x} = -\frac{\partial y}{\partial \alpha_c} = \begin{cases}
      2 - 2 \left|x - \alpha_c\right| & \left|x - \alpha_c\right| \leq 1 \\\
      0 & \left|x - \alpha_c\right| > 1
    \end{cases}
    \\]

    The output is binarized already, so a Larq layer that follows takes `input_quantizer=None`
    (`approx_sign` once more would let no gradient through, because it is zero at -1 and 1):

    ```python
    x = RSign()(x)
    x = lq.layers.QuantConv2D(64, 3, kernel_quantizer="magnitude_aware_sign", use_bias=False)(x)
    ```

    Larq Compute Engine converts these two to a subtraction, an `LceQuantize` and an `LceBconv2d`.

    # Weights
        threshold: \\(\alpha\\), float32 [channels], initially 0.

    # Input shape
        float32 [n, ..., channels].

    # Output shape
        As the input, each value -1 or 1.

    # References
        - Liu et al. 2020, [ReActNet](https://arxiv.org/abs/2003.03488) (there it is -1 at the
          threshold itself; here +1, as for every sign in Larq).
        - Liu et al. 2018, [Bi-Real Net](https://arxiv.org/abs/1808.00278) (the gradient).
    """

    def build(self, input_shape: Any) -> None:
        self.threshold = self.add_weight(
            name="threshold", shape=input_shape[-1:], initializer="zeros"
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return lq.quantizers.approx_sign(inputs - self.threshold)


@keras.utils.register_keras_serializable("larq_ensemble")
class Bias(keras.layers.Layer):
    r"""Adds a bias: that of a head whose weights the members of an ensemble share.

    \\[ y = x + b \\]

    # Weights
        bias: b, float32 [units], initially 0.

    # Input shape
        float32 [n, ..., units].

    # Output shape
        As the input.
    """

    def build(self, input_shape: Any) -> None:
        self.bias = self.add_weight(name="bias", shape=input_shape[-1:], initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs + self.bias


def _in_order(shape: Any, dtype: Any = None, **_: Any) -> tf.Tensor:
    return tf.range(shape[0], dtype=dtype)


@keras.utils.register_keras_serializable("larq_ensemble")
class Mirror(keras.layers.Layer):
    r"""Takes the columns of images in another order: those of a mirrored image, or all as they are.

    \\[ y_{n, i, j, c} = x_{n, i, p_j, c} \\]

    Members of an ensemble that differ in what they see have one graph, because the order is a
    weight: 0 to width - 1 for the image as it is, and width - 1 to 0 for the mirrored one. See
    `mirror` of `larq_ensemble.build_ensemble`.

    Its numbers are copied as they are, whatever the dtype policy.

    # Weights
        columns: p, int32 [width], initially 0 to width - 1; not trained.

    # Input shape
        [n, height, width, channels], with a known width.

    # Output shape
        As the input, of the same numbers.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)

    def build(self, input_shape: Any) -> None:
        self.columns = self.add_weight(
            name="columns",
            shape=input_shape[2:3],
            dtype=tf.int32,
            initializer=_in_order,
            trainable=False,
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.gather(inputs, self.columns, axis=2)


@keras.utils.register_keras_serializable("larq_ensemble")
class TwoLogits(keras.layers.Layer):
    r"""The logits of two classes from the one of a sigmoid.

    \\[ y = (0, x), \qquad \text{softmax}(y) = (1 - \sigma(x), \sigma(x)) \\]

    # Input shape
        float32 [n, 1].

    # Output shape
        float32 [n, 2].
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.pad(inputs, [[0, 0], [1, 0]])


@keras.utils.register_keras_serializable("larq_ensemble")
class PReLU(keras.layers.PReLU):
    r"""`keras.layers.PReLU` that passes the slope as its gradient at exactly 0, as PyTorch does.

    \\[ y = \max(x, 0) + \alpha \min(x, 0) \\]

    The values are Keras's. In training (`training=True`) the gradients are

    \\[\frac{\partial y}{\partial x} = \begin{cases}
      1 & x > 0 \\\
      \alpha & x \leq 0
    \end{cases}
    \qquad \frac{\partial y}{\partial \alpha} = \min(x, 0)
    \\]

    and Keras's differ from them at \\(x = 0\\) alone, where its \\(\partial y / \partial x\\) is 0.
    Behind a binary convolution many inputs are exactly 0, because a sum of as many +1 as -1 is.

    The arguments are those of `keras.layers.PReLU`.

    # Weights
        alpha: \\(\alpha\\), float32, of the shape of one input, with size 1 on shared axes.

    # Input shape
        float32 [n, ...].

    # Output shape
        As the input.

    # References
        - He et al. 2015, [Delving Deep into Rectifiers](https://arxiv.org/abs/1502.01852).
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not training:
            return super().call(inputs)  # TFLite's converter makes one PRELU of it
        # The gradient of `relu` is 0 at 0, that of `minimum` is 1.
        return tf.nn.relu(inputs) + self.alpha * tf.minimum(inputs, 0)


@keras.utils.register_keras_serializable("larq_ensemble")
class RPReLU(keras.layers.Layer):
    r"""PReLU with learnable shifts before and after it, for each channel (ReAct-PReLU).

    \\[
    y = \max(x - \gamma_c, 0) + \beta_c \min(x - \gamma_c, 0) + \zeta_c
    \\]

    # Weights
        shift: \\(\gamma\\), float32 [channels], initially 0.
        slope: \\(\beta\\), float32 [channels], initially 0.25.
        offset: \\(\zeta\\), float32 [channels], initially 0.

    # Input shape
        float32 [n, ..., channels].

    # Output shape
        As the input.

    # References
        - Liu et al. 2020, [ReActNet](https://arxiv.org/abs/2003.03488).
    """

    def build(self, input_shape: Any) -> None:
        channels = input_shape[-1:]
        self.shift = self.add_weight(name="shift", shape=channels, initializer="zeros")
        self.slope = self.add_weight(
            name="slope", shape=channels, initializer=keras.initializers.Constant(0.25)
        )
        self.offset = self.add_weight(name="offset", shape=channels, initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        shifted = inputs - self.shift
        # As Keras writes PReLU, with slopes [1, 1, channels]: TFLite's converter makes one PRELU.
        slope = tf.reshape(self.slope, [1] * (len(inputs.shape) - 2) + [-1])
        return tf.nn.relu(shifted) + (-slope) * tf.nn.relu(-shifted) + self.offset
