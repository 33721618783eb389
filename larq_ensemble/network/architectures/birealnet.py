"""Bi-Real Nets for small images: Bi-Real-Net-18 and -34.

In Bi-Real-Net-18 each of the 16 binary 3x3 convolutions has its own shortcut, so the real values
before a sign are never lost.

What the sources leave open, and our choices:

- Kim et al. 2022 do not name an activation for it. Liu et al. 2018 have none besides the sign, so
  there is none here either: no PReLU.
- The stem is that of the code of Kim et al.: behind convolution, BN and ReLU there is a second BN,
  so that the first signs are of both kinds.
- The gradient of the sign is the clipped one (`estimator="ste_sign"`) by default, as in the code of
  Kim et al.; Liu et al. have `"approx_sign"`.
- The stem is for CIFAR: a 3x3 convolution of stride 1 without pooling.
- Without its signs the network would be linear, so the real-valued twin has hard tanh in their
  place, like the network that Liu et al. pretrain, which has clip(x, -1, 1) instead of ReLU.

# References
    - Kim et al. 2022, [PeerJ CS 8:e924](https://doi.org/10.7717/peerj-cs.924), and
      [its code](https://github.com/analog75/ensemble_bnn).
    - Liu et al. 2018, [Bi-Real Net](https://arxiv.org/abs/1808.00278).
"""

from __future__ import annotations

from larq_ensemble.network.layers import Layers, Value


def bireal_stem(layers: Layers[Value], x: Value) -> Value:
    """BN, ReLU, BN."""
    x = layers.BatchNormalization(name="conv1_bn")(x)
    x = layers.Activation("relu", name="conv1_relu")(x)
    return layers.BatchNormalization(name="conv1_bn2")(x)


def bireal_block(
    layers: Layers[Value], x: Value, filters: int, *, strides: int, name: str
) -> Value:
    """(Sign, binary 3x3 conv, BN, plus shortcut) twice; in the twin hard tanh for the sign.

    The shortcut is the identity; where the shape changes, 2x2 average pooling, a real-valued 1x1
    convolution and BN.
    """
    for index, step in enumerate((strides, 1), start=1):
        shortcut = x
        if not layers.binary:
            x = layers.Activation("hard_tanh", name=f"{name}_hard_tanh{index}")(x)
        x = layers.QuantConv2D(filters, 3, strides=step, name=f"{name}_conv{index}")(x)
        x = layers.BatchNormalization(name=f"{name}_bn{index}")(x)
        if step > 1 or shortcut.shape[-1] != filters:
            shortcut = layers.AveragePooling2D(step, name=f"{name}_shortcut_pool")(shortcut)
            shortcut = layers.Conv2D(filters, 1, name=f"{name}_shortcut_conv")(shortcut)
            shortcut = layers.BatchNormalization(name=f"{name}_shortcut_bn")(shortcut)
        x = layers.Add(name=f"{name}_add{index}")([x, shortcut])
    return x
