"""Ordinary real-valued networks: what an engineer would quantize to int8 in place of a BNN.

The real-valued twin of a binarized network keeps its batch norms before convolutions and its
PReLUs, which a binarized network needs. Integers do without: behind a convolution, batch norm folds
into its filters, and ReLU is a clamp of its output. So a plain network takes fewer instructions
than a twin of the same convolutions, and is the stronger rival.

# References
    - He et al. 2016, [Deep Residual Learning](https://arxiv.org/abs/1512.03385), section 4.2; with
      1x1 convolutions (option B) where the shape changes.
"""

from __future__ import annotations

from larq_ensemble.network.architectures.deploynet import free_shortcut
from larq_ensemble.network.layers import Layers, Value


def plain_block(layers: Layers[Value], x: Value, filters: int, *, strides: int, name: str) -> Value:
    """3x3 conv, BN, ReLU, 3x3 conv, BN, plus shortcut, ReLU.

    The shortcut is the identity, or a 1x1 convolution with BN where the shape changes.
    """
    shortcut = x
    x = layers.Conv2D(filters, 3, strides=strides, name=f"{name}_conv1")(x)
    x = layers.BatchNormalization(name=f"{name}_bn1")(x)
    x = layers.Activation("relu", name=f"{name}_relu1")(x)
    x = layers.Conv2D(filters, 3, name=f"{name}_conv2")(x)
    x = layers.BatchNormalization(name=f"{name}_bn2")(x)
    if strides > 1 or shortcut.shape[-1] != filters:
        project = layers.Conv2D(filters, 1, strides=strides, name=f"{name}_shortcut_conv")
        shortcut = project(shortcut)
        shortcut = layers.BatchNormalization(name=f"{name}_shortcut_bn")(shortcut)
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.Activation("relu", name=f"{name}_relu2")(x)


def plain_layer(layers: Layers[Value], x: Value, filters: int, *, strides: int, name: str) -> Value:
    """3x3 conv, BN, plus `free_shortcut`, ReLU: DeployNet's without what binarization asks for."""
    shortcut = free_shortcut(layers, x, filters, strides=strides, name=name)
    x = layers.Conv2D(filters, 3, strides=strides, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.Activation("relu", name=f"{name}_relu")(x)
