"""The layers of architectures: Keras's and Larq's, with the defaults of this package."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import larq_ensemble.constraints  # noqa: F401 (registers "at_least")
from larq_ensemble.keras import keras, lq
from larq_ensemble.layers import PReLU, RPReLU, RSign

PReLUGradient = Literal["zero", "slope"]
Binarize = Literal["all", "activations"]

#: The default: networks learned a little more with it (docs/reports/results.md).
PRELU_GRADIENT: PReLUGradient = "slope"
#: The layer of a PReLU, by its gradient at exactly 0.
PRELUS: dict[str, Any] = {"zero": keras.layers.PReLU, "slope": PReLU}


class KerasLayers:
    """Implements `larq_ensemble.network.layers.Layers`: calling a layer adds it to a Keras model.

    # Arguments
        binary: `False` for the real-valued twin: the same graph with nothing binarized.
        pad_values: what pads the inputs of binary convolutions, 0.0 or 1.0.
        estimator: input quantizer of binary convolutions, `"ste_sign"` or `"approx_sign"`: the
            sign with one or the other gradient. The gradient of RSign is always the latter.
        binarize: `"all"`, or `"activations"`: binary convolutions have real-valued filters then,
            not constrained, as in the first of two stages of training (Martinez et al. 2020).
        prelu_gradient: of PReLU at exactly 0, `"zero"` or `"slope"`, see
            `larq_ensemble.layers.PReLU`. That of RPReLU is always 0 there.

    # References
        - Kim et al. 2022, Eq. 2 (sign(0) = +1), Eq. 5 (clipped straight-through estimator).
        - Liu et al. 2018, [Bi-Real Net](https://arxiv.org/abs/1808.00278) (`approx_sign`).
        - Martinez et al. 2020, [Training binary neural networks with real-to-binary
          convolutions](https://arxiv.org/abs/2003.11535), section 4.2.
        - Rastegari et al. 2016, [XNOR-Net](https://arxiv.org/abs/1603.05279) (scale mean(|W|)).
    """

    Conv2D = partial(
        keras.layers.Conv2D, padding="same", use_bias=False, kernel_initializer="he_normal"
    )
    BatchNormalization = partial(keras.layers.BatchNormalization, momentum=0.9, epsilon=1e-5)
    RPReLU = RPReLU
    Cropping2D = keras.layers.Cropping2D
    Activation = keras.layers.Activation
    Add = keras.layers.Add
    Concatenate = keras.layers.Concatenate
    AveragePooling2D = partial(keras.layers.AveragePooling2D, padding="same")
    GlobalAveragePooling2D = keras.layers.GlobalAveragePooling2D
    Dropout = keras.layers.Dropout
    Dense = keras.layers.Dense

    def __init__(
        self,
        *,
        binary: bool = True,
        pad_values: float = 0.0,
        estimator: str = "ste_sign",
        binarize: Binarize = "all",
        prelu_gradient: PReLUGradient = PRELU_GRADIENT,
    ) -> None:
        self.binary = binary
        self.PReLU = partial(
            PRELUS[prelu_gradient], alpha_initializer=keras.initializers.Constant(0.25)
        )
        # The constraint keeps latent weights where the clipped estimator passes gradients.
        self._quantized = {
            "padding": "same",
            "pad_values": pad_values,
            "use_bias": False,
            "input_quantizer": estimator,
            "kernel_quantizer": "magnitude_aware_sign",
            "kernel_constraint": "weight_clip",
        }
        if binarize == "activations":
            self._quantized |= {"kernel_quantizer": None, "kernel_constraint": None}

    def QuantConv2D(self, *args: Any, **kwargs: Any) -> keras.layers.Layer:
        if self.binary:
            return lq.layers.QuantConv2D(*args, **{**self._quantized, **kwargs})
        kwargs.pop("input_quantizer", None)
        return self.Conv2D(*args, **kwargs)

    def RSign(self, *, name: str) -> Any:
        return RSign(name=name) if self.binary else lambda x: x
