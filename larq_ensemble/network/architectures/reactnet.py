"""ReActNet-10 for small images, as Kim et al. 2022 describe it.

Ten layers: the stem, eight binary 3x3 convolutions in four stages of two, the linear layer. Each of
the eight has its own shortcut, an RSign before and an RPReLU after it. Every two convolutions the
channels double, and the shortcut goes through a binarized 1x1 convolution ("downsampling"),
which members of an ensemble do not share (`Role.DOWNSAMPLING`).

What the sources leave open, and our choices:

- Kim et al. give the number of layers, not their widths: 64, 128, 256 and 512, as in ResNet-18.
- Liu et al. build on MobileNet, whose blocks alternate 3x3 and 1x1 convolutions; only the order
  within a block (RSign, convolution, batch norm, shortcut, RPReLU) is theirs.
- The downsampling binarizes with its own RSign, after 2x2 average pooling.
- The stem is a 3x3 convolution of stride 1 and batch norm, without ReLU, as in the
  [code of Liu et al.](https://github.com/liuzechun/ReActNet); that of Kim et al. has no ReActNet.
- The real-valued twin has no RSign: its nonlinearities are the RPReLUs.

# References
    - Kim et al. 2022, [PeerJ CS 8:e924](https://doi.org/10.7717/peerj-cs.924).
    - Liu et al. 2020, [ReActNet](https://arxiv.org/abs/2003.03488).
"""

from __future__ import annotations

from larq_ensemble.network.layers import Layers, Value


def react_block(layers: Layers[Value], x: Value, filters: int, *, strides: int, name: str) -> Value:
    """(RSign, binary 3x3 conv, BN, plus shortcut, RPReLU) twice.

    The shortcut is the identity; where the shape changes, 2x2 average pooling, RSign, a binary 1x1
    convolution and BN.
    """
    for index, step in enumerate((strides, 1), start=1):
        shortcut = x
        x = layers.RSign(name=f"{name}_rsign{index}")(x)
        x = layers.QuantConv2D(
            filters, 3, strides=step, input_quantizer=None, name=f"{name}_conv{index}"
        )(x)
        x = layers.BatchNormalization(name=f"{name}_bn{index}")(x)
        if step > 1 or shortcut.shape[-1] != filters:
            shortcut = layers.AveragePooling2D(step, name=f"{name}_shortcut_pool")(shortcut)
            shortcut = layers.RSign(name=f"{name}_shortcut_rsign")(shortcut)
            shortcut = layers.QuantConv2D(
                filters, 1, input_quantizer=None, name=f"{name}_shortcut_conv"
            )(shortcut)
            shortcut = layers.BatchNormalization(name=f"{name}_shortcut_bn")(shortcut)
        x = layers.Add(name=f"{name}_add{index}")([x, shortcut])
        x = layers.RPReLU(name=f"{name}_rprelu{index}")(x)
    return x
