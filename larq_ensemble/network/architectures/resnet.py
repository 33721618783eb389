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
    """A function that adds one block of a stage.

    Its output has `filters` channels and 1 / `strides` of the resolution of `x`.
    """

    def __call__(
        self, layers: Layers[Value], x: Value, filters: int, *, strides: int, name: str
    ) -> Value: ...


def residual_block(
    layers: Layers[Value], x: Value, filters: int, *, strides: int, name: str
) -> Value:
    """(BN, sign, binary 3x3 conv, PReLU) twice, BN, plus shortcut, PReLU (paper, Fig. 1B).

    The shortcut is the identity, or a real-valued 1x1 convolution with BN where the shape changes.
    Each PReLU has a single slope.
    """
    shortcut = x
    x = layers.BatchNormalization(name=f"{name}_bn1")(x)
    x = layers.QuantConv2D(filters, 3, strides=strides, name=f"{name}_conv1")(x)
    x = layers.PReLU(shared_axes=[1, 2, 3], name=f"{name}_prelu1")(x)
    x = layers.BatchNormalization(name=f"{name}_bn2")(x)
    x = layers.QuantConv2D(filters, 3, name=f"{name}_conv2")(x)
    x = layers.PReLU(shared_axes=[1, 2, 3], name=f"{name}_prelu2")(x)
    x = layers.BatchNormalization(name=f"{name}_bn3")(x)
    if strides > 1 or shortcut.shape[-1] != filters:
        project = layers.Conv2D(filters, 1, strides=strides, name=f"{name}_shortcut_conv")
        shortcut = project(shortcut)
        shortcut = layers.BatchNormalization(name=f"{name}_shortcut_bn")(shortcut)
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.PReLU(shared_axes=[1, 2, 3], name=f"{name}_prelu3")(x)


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

    The stem is a real-valued convolution with batch norm; its default is that of CIFAR networks.

    # Arguments
        layers: the namespace of layers, see `larq_ensemble.network.layers`.
        x: the image.
        classes: number of logits.
        dropout: rate before the linear layer.
        stages: channels of each stage; every stage but the first halves the resolution.
        blocks: number of blocks of each stage.
        block: adds a block.
        stem: kernel size and stride of the first convolution.

    # Returns
        The logits.
    """
    kernel, strides = stem
    x = layers.Conv2D(stages[0], kernel, strides=strides, name="conv1")(x)
    x = layers.BatchNormalization(name="conv1_bn")(x)
    for stage, (filters, count) in enumerate(zip(stages, blocks), start=1):
        for index in range(count):
            strides = 2 if stage > 1 and index == 0 else 1
            x = block(layers, x, filters, strides=strides, name=f"layer{stage}_{index}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    return layers.Dense(classes, name="linear")(x)
