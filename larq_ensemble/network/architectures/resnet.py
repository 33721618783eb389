"""XNOR-style binarized ResNets for small images: ResNet-18, -20, -32 and -34.

# References
    - Kim et al. 2022, [PeerJ CS 8:e924](https://doi.org/10.7717/peerj-cs.924): Tables 1 and 2
      (sizes), Fig. 1B (block), Fig. 3 and 4 (network). The paper has ResNet-18 and -20.
    - [Its code](https://github.com/analog75/ensemble_bnn) (ReLU behind the stem, place of the
      shortcut). With the same weights the logits are the same, except where the input of a sign
      is exactly 0: its sign is 0 in the code, and +1 in the paper's Eq. 2 and here.
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


class Stem(Protocol):
    """A function that adds what follows the first convolution."""

    def __call__(self, layers: Layers[Value], x: Value) -> Value: ...


def norm_stem(layers: Layers[Value], x: Value) -> Value:
    """BN."""
    return layers.BatchNormalization(name="conv1_bn")(x)


def relu_stem(layers: Layers[Value], x: Value) -> Value:
    """BN, ReLU."""
    x = layers.BatchNormalization(name="conv1_bn")(x)
    return layers.Activation("relu", name="conv1_relu")(x)


def residual_block(
    layers: Layers[Value],
    x: Value,
    filters: int,
    *,
    strides: int,
    name: str,
    centred: bool = True,
) -> Value:
    """(BN, sign, binary 3x3 conv, PReLU) twice, BN, plus shortcut, PReLU (paper, Fig. 1B).

    The shortcut is the identity, or a real-valued 1x1 convolution with BN where the shape changes.
    Each PReLU has a single slope.

    # Arguments
        centred: whether a shortcut with strides reads the pixel that is the centre of the 3x3
            convolution beside it, as in the paper's code; otherwise the first of the pixels that
            the strides step over.
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
        if centred:
            before = [_first_centre(size, strides) for size in shortcut.shape[1:3]]
            if any(before):
                cropping = ((before[0], 0), (before[1], 0))
                shortcut = layers.Cropping2D(cropping, name=f"{name}_shortcut_crop")(shortcut)
        project = layers.Conv2D(filters, 1, strides=strides, name=f"{name}_shortcut_conv")
        shortcut = project(shortcut)
        shortcut = layers.BatchNormalization(name=f"{name}_shortcut_bn")(shortcut)
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.PReLU(shared_axes=[1, 2, 3], name=f"{name}_prelu3")(x)


def _first_centre(size: int, strides: int) -> int:
    """The row or column that a 3x3 convolution with padding "same" is first centred on.

    If strides of 2 halve an even size, "same" pads behind only, so these are 1, 3, 5, ...
    Otherwise they start at 0.
    """
    padding = max((-(-size // strides) - 1) * strides + 3 - size, 0)
    return 1 - padding // 2


def resnet(
    layers: Layers[Value],
    x: Value,
    *,
    classes: int,
    dropout: float,
    stages: Sequence[int],
    blocks: Sequence[int],
    block: Block = residual_block,
    stem: Stem = relu_stem,
    stem_conv: tuple[int, int] = (3, 1),
) -> Value:
    """Stem, stages of residual blocks, global average pooling, dropout, linear layer.

    The stem starts with a real-valued convolution; its default is that of CIFAR networks.

    # Arguments
        layers: the namespace of layers, see `larq_ensemble.network.layers`.
        x: the image.
        classes: number of logits.
        dropout: rate before the linear layer.
        stages: channels of each stage; every stage but the first halves the resolution.
        blocks: number of blocks of each stage.
        block: adds a block.
        stem: adds what follows the first convolution.
        stem_conv: kernel size and stride of the first convolution.

    # Returns
        The logits.
    """
    kernel, strides = stem_conv
    x = layers.Conv2D(stages[0], kernel, strides=strides, name="conv1")(x)
    x = stem(layers, x)
    for stage, (filters, count) in enumerate(zip(stages, blocks), start=1):
        for index in range(count):
            strides = 2 if stage > 1 and index == 0 else 1
            x = block(layers, x, filters, strides=strides, name=f"layer{stage}_{index}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    return layers.Dense(classes, name="linear")(x)
