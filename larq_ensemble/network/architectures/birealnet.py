"""Bi-Real Nets for small images: Bi-Real-Net-18 and -34.

In Bi-Real-Net-18 each of the 16 binary 3x3 convolutions has a shortcut of its own, so the
real-valued values before a sign are never lost.

What the sources leave open, and what this is:

- Kim et al. 2022 do not name an activation for it. Liu et al. 2018 have none besides the sign, so
  there is none here either: no PReLU.
- The gradient of the sign is the clipped one (`estimator="ste_sign"`) by default, as in the code of
  Kim et al.; Liu et al. have `"approx_sign"`.
- The stem is for CIFAR: a 3x3 convolution of stride 1 without pooling.
- Without its signs the network would be linear, so the real-valued twin has hard tanh in their
  place, like the network that Liu et al. pretrain, which has clip(x, -1, 1) instead of ReLU.

# References
    - Kim et al. 2022, [PeerJ CS 8:e924](https://doi.org/10.7717/peerj-cs.924).
    - Liu et al. 2018, [Bi-Real Net](https://arxiv.org/abs/1808.00278).
"""

from __future__ import annotations

from larq_ensemble.network.layers import Layers, Value


def bireal_block(
    layers: Layers[Value], x: Value, filters: int, *, strides: int, name: str
) -> Value:
    """(Sign, binary 3x3 conv, BN, plus shortcut) twice.

    The shortcut is the identity; where the shape changes, 2x2 average pooling, a real-valued 1x1
    convolution and BN.
    """
    for index, step in enumerate((strides, 1), start=1):
        shortcut = x
        x = layers.hard_tanh(x, name=f"{name}_hard_tanh{index}")
        x = layers.binary_conv(x, filters, 3, strides=step, name=f"{name}_conv{index}")
        x = layers.batch_norm(x, name=f"{name}_bn{index}")
        if step > 1 or layers.channels(shortcut) != filters:
            shortcut = layers.average_pool(shortcut, step, name=f"{name}_shortcut_pool")
            shortcut = layers.conv(shortcut, filters, 1, name=f"{name}_shortcut_conv")
            shortcut = layers.batch_norm(shortcut, name=f"{name}_shortcut_bn")
        x = layers.add(x, shortcut, name=f"{name}_add{index}")
    return x
