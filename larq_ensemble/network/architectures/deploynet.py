"""A network for deployment: what Larq Compute Engine computes in few instructions on arm64.

DeployNet-9 takes as much storage as XNOR-ResNet-20 and has nine layers: the stem, seven binary 3x3
convolutions (three at half and four at a quarter of the image's resolution) and the linear layer.
What makes it cheap:

- Widths are multiples of 32, which fill bit-packed words; the 16 channels of ResNet-20's first
  stage fill half of one. A few wide layers at a low resolution take fewer instructions than many
  narrow layers at a high resolution, and leave fewer elements to quantize, normalize and add.
- The scale of a batch norm before a sign is kept positive, so for each member the two are one
  threshold per channel: an addition.
- Binary convolutions are padded with ones (`pad_values=1`), which needs no correction at borders.
- All stages have one width, so shortcuts need no convolutions. Where the resolution halves, the
  shortcut is the mean of each 2x2 window.

Each convolution has its own shortcut, as in Bi-Real Net, so real values reach the linear
layer. The stem has no ReLU, so the first signs see values of both kinds. No PReLU stands right
before a batch norm and a sign: the three would be one threshold only with a non-negative slope, but
slopes learn to be negative.

# References
    - He et al. 2016, [Identity Mappings](https://arxiv.org/abs/1603.05027) (batch norm and
      activation before the convolution).
    - Liu et al. 2018, [Bi-Real Net](https://arxiv.org/abs/1808.00278) (a shortcut per convolution).
"""

from __future__ import annotations

from larq_ensemble.network.layers import Layers, Value


def deploy_block(
    layers: Layers[Value], x: Value, filters: int, *, strides: int, name: str
) -> Value:
    """BN, sign, binary 3x3 conv, PReLU, BN, plus shortcut.

    The scales of the first BN are kept positive (`larq_ensemble.constraints.AtLeast`), and the
    PReLU has one slope per channel. The shortcut is the identity, or the mean of each
    `strides` x `strides` window. `x` has `filters` channels.
    """
    shortcut = x
    x = layers.BatchNormalization(gamma_constraint="at_least", name=f"{name}_bn1")(x)
    x = layers.QuantConv2D(filters, 3, strides=strides, name=f"{name}_conv")(x)
    x = layers.PReLU(shared_axes=[1, 2], name=f"{name}_prelu")(x)
    x = layers.BatchNormalization(name=f"{name}_bn2")(x)
    if strides > 1:
        shortcut = layers.AveragePooling2D(strides, name=f"{name}_shortcut_pool")(shortcut)
    return layers.Add(name=f"{name}_add")([x, shortcut])
