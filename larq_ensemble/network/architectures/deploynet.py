"""A network for deployment: what Larq Compute Engine computes in few instructions on arm64.

DeployNet-9 takes the storage of XNOR-ResNet-20 and has nine layers: the stem, seven binary 3x3
convolutions, three at half and four at a quarter of the image's resolution, and the linear layer.
What makes it cheap:

- Widths are multiples of 32, which fill bit-packed words; the 16 channels of ResNet-20's first
  stage fill half of one. So few wide layers at a low resolution take fewer instructions than many
  narrow ones at a high resolution, and have fewer elements to quantize, normalize and add.
- The batch norm before a sign has a scale that is kept positive: for each member the two are one
  threshold a channel, an addition.
- Binary convolutions are padded with ones (`pad_values=1`), which needs no correction at borders.
- All stages have one width, so shortcuts have no convolutions; where the resolution halves they
  take the mean of each 2x2 window.

Each convolution has a shortcut of its own, as in Bi-Real Net, so real values reach the linear
layer, and no PReLU stands right before a batch norm and a sign. There its slope would have to be
kept non-negative for the three to be one threshold, but slopes learn to be negative.

# References
    - He et al. 2016, [Identity Mappings](https://arxiv.org/abs/1603.05027) (batch norm and
      activation before the convolution).
    - Liu et al. 2018, [Bi-Real Net](https://arxiv.org/abs/1808.00278) (a shortcut a convolution).
"""

from __future__ import annotations

from larq_ensemble.network.layers import Layers, Value


def deploy_block(
    layers: Layers[Value], x: Value, filters: int, *, strides: int, name: str
) -> Value:
    """BN, sign, binary 3x3 conv, PReLU, BN, plus shortcut.

    The first BN has positive scales, the PReLU a slope a channel. The shortcut is the identity, or
    the mean of each `strides` x `strides` window; `x` has `filters` channels.
    """
    shortcut = x
    x = layers.batch_norm(x, positive_scale=True, name=f"{name}_bn1")
    x = layers.binary_conv(x, filters, 3, strides=strides, name=f"{name}_conv")
    x = layers.prelu(x, per_channel=True, name=f"{name}_prelu")
    x = layers.batch_norm(x, name=f"{name}_bn2")
    if strides > 1:
        shortcut = layers.average_pool(shortcut, strides, name=f"{name}_shortcut_pool")
    return layers.add(x, shortcut, name=f"{name}_add")
