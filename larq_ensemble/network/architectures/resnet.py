"""XNOR-style binarized ResNets for small images: ResNet-18, -20, -32 and -34.

# References
    - Kim et al. 2022, [PeerJ CS 8:e924](https://doi.org/10.7717/peerj-cs.924): Tables 1 and 2
      (sizes), Fig. 1B (block), Fig. 3 and 4 (network). The paper has ResNet-18 and -20.
    - He et al. 2016, [Deep Residual Learning](https://arxiv.org/abs/1512.03385), section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from larq_ensemble.network.layers import Layers, Value


class Block(Protocol):
    """A part of a stage: its output has `filters` channels and 1 / `strides` the resolution."""

    def __call__(
        self, layers: Layers[Value], x: Value, filters: int, *, strides: int, name: str
    ) -> Value: ...


def residual_block(
    layers: Layers[Value], x: Value, filters: int, *, strides: int, name: str
) -> Value:
    """(BN, sign, binary 3x3 conv, PReLU) twice, BN, plus shortcut, PReLU (paper, Fig. 1B).

    The shortcut is the identity, or a real-valued 1x1 convolution with BN where the shape changes.
    """
    shortcut = x
    x = layers.batch_norm(x, name=f"{name}_bn1")
    x = layers.binary_conv(x, filters, 3, strides=strides, name=f"{name}_conv1")
    x = layers.prelu(x, name=f"{name}_prelu1")
    x = layers.batch_norm(x, name=f"{name}_bn2")
    x = layers.binary_conv(x, filters, 3, name=f"{name}_conv2")
    x = layers.prelu(x, name=f"{name}_prelu2")
    x = layers.batch_norm(x, name=f"{name}_bn3")
    if strides > 1 or layers.channels(shortcut) != filters:
        shortcut = layers.conv(shortcut, filters, 1, strides=strides, name=f"{name}_shortcut_conv")
        shortcut = layers.batch_norm(shortcut, name=f"{name}_shortcut_bn")
    x = layers.add(x, shortcut, name=f"{name}_add")
    return layers.prelu(x, name=f"{name}_prelu3")


def resnet(
    layers: Layers[Value],
    x: Value,
    *,
    classes: int,
    dropout: float,
    stages: Sequence[int],
    blocks: Sequence[int],
    block: Block = residual_block,
    stem: tuple[int, int] = (3, 1),
) -> Value:
    """Stem, stages of residual blocks, global average pooling, dropout, linear layer.

    The stem is a real-valued convolution with batch norm, by default that of CIFAR networks.

    # Arguments
        layers: the vocabulary to build with.
        x: the image.
        classes: number of logits.
        dropout: rate before the linear layer.
        stages: channels of each stage; every stage but the first halves the resolution.
        blocks: how many blocks each stage has.
        block: what a block is.
        stem: kernel size and stride of the first convolution.

    # Returns
        The logits.
    """
    kernel, strides = stem
    x = layers.conv(x, stages[0], kernel, strides=strides, name="conv1")
    x = layers.batch_norm(x, name="conv1_bn")
    for stage, (filters, count) in enumerate(zip(stages, blocks), start=1):
        for index in range(count):
            strides = 2 if stage > 1 and index == 0 else 1
            x = block(layers, x, filters, strides=strides, name=f"layer{stage}_{index}")
    x = layers.global_average_pool(x, name="pool")
    x = layers.dropout(x, dropout, name="dropout")
    return layers.dense(x, classes, name="linear")
