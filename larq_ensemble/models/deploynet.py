"""A network for deployment: what Larq Compute Engine computes in few instructions on arm64.

DeployNet-12 takes the storage of XNOR-ResNet-20 and has twelve layers: the stem, ten binary 3x3
convolutions, four at half and six at a quarter of the image's resolution, and the linear layer.
What makes it cheap:

- Widths are multiples of 32, which fill bit-packed words; the 16 channels of ResNet-20's first
  stage fill half of one. So few wide layers at a low resolution take fewer instructions than many
  narrow ones at a high resolution, and have fewer elements to quantize, normalize and add.
- The batch norm before a sign has a scale that is kept positive: for each member the two are one
  threshold a channel.
- The slope of a PReLU before those is kept non-negative, so that PReLU, batch norm and sign
  together are still one threshold. That of the second PReLU of a block is free.
- Binary convolutions are padded with ones (`pad_values=1`): no correction at borders, and Larq
  Compute Engine can write the bits of the first convolution's thresholded output at once.
- All stages have one width, so shortcuts have no convolutions; where the resolution halves they
  take the mean of each 2x2 window. Nothing is normalized behind a block.

# References
    - He et al. 2016, [Identity Mappings](https://arxiv.org/abs/1603.05027) (batch norm and
      activation before the convolution).
    - Kim et al. 2022, [PeerJ CS 8:e924](https://doi.org/10.7717/peerj-cs.924) (BN, sign, binary
      convolution, PReLU).
"""

from __future__ import annotations

from larq_ensemble.models.vocabulary import Layers, Value


def deploy_block(
    layers: Layers[Value], x: Value, filters: int, *, strides: int, name: str
) -> Value:
    """(BN, sign, binary 3x3 conv, PReLU) twice, plus shortcut.

    Scales are kept positive and the slope of the first PReLU non-negative; the second PReLU has a
    slope a channel. The shortcut is the identity, or the mean of each `strides` x `strides` window;
    `x` has `filters` channels.
    """
    shortcut = x
    x = layers.batch_norm(x, positive_scale=True, name=f"{name}_bn1")
    x = layers.binary_conv(x, filters, 3, strides=strides, name=f"{name}_conv1")
    x = layers.prelu(x, monotonic=True, name=f"{name}_prelu1")
    x = layers.batch_norm(x, positive_scale=True, name=f"{name}_bn2")
    x = layers.binary_conv(x, filters, 3, name=f"{name}_conv2")
    x = layers.prelu(x, per_channel=True, name=f"{name}_prelu2")
    if strides > 1:
        shortcut = layers.average_pool(shortcut, strides, name=f"{name}_shortcut_pool")
    return layers.add(x, shortcut, name=f"{name}_add")
