"""The vocabulary of architectures as Keras and Larq layers."""

from __future__ import annotations

from larq_ensemble.constraints import AtLeast
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.layers import RPReLU, RSign

# Far below the scales that networks learn, and far above what float32 could round to zero.
SMALLEST_SCALE = 1e-3


class KerasLayers:
    """Applies Keras layers.

    # Arguments
        binary: build Larq's binarized convolutions; `False` gives the real-valued twin, the same
            graph with nothing binarized.
        pad_values: what pads the inputs of binary convolutions, 0.0 or 1.0.
        estimator: the input quantizer of binary convolutions: sign with the gradient `"ste_sign"`
            or `"approx_sign"`. RSign's is always the latter.

    # References
        - Kim et al. 2022, Eq. 2 (sign(0) = +1), Eq. 5 (clipped straight-through estimator).
        - Liu et al. 2018, [Bi-Real Net](https://arxiv.org/abs/1808.00278) (`approx_sign`).
        - Rastegari et al. 2016, [XNOR-Net](https://arxiv.org/abs/1603.05279) (scale mean(|W|)).
    """

    def __init__(
        self, *, binary: bool = True, pad_values: float = 0.0, estimator: str = "ste_sign"
    ) -> None:
        self._binary = binary
        self._pad_values = pad_values
        self._estimator = estimator

    def channels(self, x: tf.Tensor) -> int:
        return x.shape[-1]

    def conv(
        self, x: tf.Tensor, filters: int, kernel: int, *, strides: int = 1, name: str
    ) -> tf.Tensor:
        return keras.layers.Conv2D(
            filters,
            kernel,
            strides=strides,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            name=name,
        )(x)

    def binary_conv(
        self,
        x: tf.Tensor,
        filters: int,
        kernel: int,
        *,
        strides: int = 1,
        binarize_input: bool = True,
        name: str,
    ) -> tf.Tensor:
        if not self._binary:
            return self.conv(x, filters, kernel, strides=strides, name=name)
        # The constraint keeps latent weights where the clipped estimator passes gradients.
        return lq.layers.QuantConv2D(
            filters,
            kernel,
            strides=strides,
            padding="same",
            pad_values=self._pad_values,
            use_bias=False,
            input_quantizer=self._estimator if binarize_input else None,
            kernel_quantizer="magnitude_aware_sign",
            kernel_constraint="weight_clip",
            name=name,
        )(x)

    def rsign(self, x: tf.Tensor, *, name: str) -> tf.Tensor:
        return RSign(name=name)(x) if self._binary else x

    def hard_tanh(self, x: tf.Tensor, *, name: str) -> tf.Tensor:
        return x if self._binary else keras.layers.Activation("hard_tanh", name=name)(x)

    def batch_norm(self, x: tf.Tensor, *, positive_scale: bool = False, name: str) -> tf.Tensor:
        return keras.layers.BatchNormalization(
            momentum=0.9,
            epsilon=1e-5,
            gamma_constraint=AtLeast(SMALLEST_SCALE) if positive_scale else None,
            name=name,
        )(x)

    def prelu(self, x: tf.Tensor, *, per_channel: bool = False, name: str) -> tf.Tensor:
        return keras.layers.PReLU(
            alpha_initializer=keras.initializers.Constant(0.25),
            shared_axes=list(range(1, len(x.shape) - per_channel)),
            name=name,
        )(x)

    def rprelu(self, x: tf.Tensor, *, name: str) -> tf.Tensor:
        return RPReLU(name=name)(x)

    def add(self, x: tf.Tensor, y: tf.Tensor, *, name: str) -> tf.Tensor:
        return keras.layers.Add(name=name)([x, y])

    def average_pool(self, x: tf.Tensor, size: int, *, name: str) -> tf.Tensor:
        return keras.layers.AveragePooling2D(size, padding="same", name=name)(x)

    def global_average_pool(self, x: tf.Tensor, *, name: str) -> tf.Tensor:
        return keras.layers.GlobalAveragePooling2D(name=name)(x)

    def dropout(self, x: tf.Tensor, rate: float, *, name: str) -> tf.Tensor:
        return keras.layers.Dropout(rate, name=name)(x)

    def dense(self, x: tf.Tensor, units: int, *, name: str) -> tf.Tensor:
        return keras.layers.Dense(units, name=name)(x)
