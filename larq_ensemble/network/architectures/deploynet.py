"""Networks for deployment: what Larq Compute Engine computes in few instructions on arm64.

DeployNet-9 takes as much storage as XNOR-ResNet-20 and has nine layers: the stem, seven binary 3x3
convolutions (three at half and four at a quarter of the image's resolution) and the linear layer.
DeployNet-8 has one convolution less at half the resolution and twice the channels at a quarter:
2.3 times the bits, where they cost least time, and twice the features for the linear layer. What
makes both cheap:

- Widths are multiples of 32, which fill bit-packed words; the 16 channels of ResNet-20's first
  stage fill half of one. A few wide layers at a low resolution take fewer instructions than many
  narrow layers at a high resolution, and leave fewer elements to quantize, normalize and add.
- The scale of a batch norm before a sign is kept positive, so for each member the two are one
  threshold per channel: an addition.
- Binary convolutions are padded with ones (`pad_values=1`), which needs no correction at borders.
- Shortcuts have no convolutions. Where the resolution halves, the shortcut is the mean of each 2x2
  window; where the channels double, it has each channel twice.

Each convolution has its own shortcut, as in Bi-Real Net, so real values reach the linear
layer. The stem has no ReLU, so the first signs see values of both kinds. No PReLU stands right
before a batch norm and a sign: the three would be one threshold only with a non-negative slope, but
slopes learn to be negative.

# References
    - He et al. 2016, [Identity Mappings](https://arxiv.org/abs/1603.05027) (batch norm and
      activation before the convolution).
    - Liu et al. 2018, [Bi-Real Net](https://arxiv.org/abs/1808.00278) (a shortcut per convolution).
    - Liu et al. 2020, [ReActNet](https://arxiv.org/abs/2003.03488), section 4.1 (channels of a
      shortcut twice, in place of a convolution).
"""

from __future__ import annotations

from larq_ensemble.errors import EnsembleError
from larq_ensemble.network.layers import Layers, Value


def deploy_block(
    layers: Layers[Value], x: Value, filters: int, *, strides: int, name: str
) -> Value:
    """BN, sign, binary 3x3 conv, PReLU, BN, plus `free_shortcut`.

    The scales of the first BN are kept positive (`larq_ensemble.constraints.AtLeast`), and the
    PReLU has one slope per channel.
    """
    shortcut = free_shortcut(layers, x, filters, strides=strides, name=name)
    x = layers.BatchNormalization(gamma_constraint="at_least", name=f"{name}_bn1")(x)
    x = layers.QuantConv2D(filters, 3, strides=strides, name=f"{name}_conv")(x)
    x = layers.PReLU(shared_axes=[1, 2], name=f"{name}_prelu")(x)
    x = layers.BatchNormalization(name=f"{name}_bn2")(x)
    return layers.Add(name=f"{name}_add")([x, shortcut])


def free_shortcut(
    layers: Layers[Value], x: Value, filters: int, *, strides: int, name: str
) -> Value:
    """A shortcut without weights: the mean of each `strides` x `strides` window, channels repeated.

    # Raises
        EnsembleError: if `filters` is not a multiple of the channels of `x`.
    """
    if strides > 1:
        x = layers.AveragePooling2D(strides, name=f"{name}_shortcut_pool")(x)
    copies, rest = divmod(filters, x.shape[-1])
    if rest or not copies:
        raise EnsembleError(
            f"A shortcut can't repeat {x.shape[-1]} channels to {filters}: `filters` must be a "
            "multiple of them."
        )
    return layers.Concatenate(name=f"{name}_shortcut_repeat")([x] * copies) if copies > 1 else x
