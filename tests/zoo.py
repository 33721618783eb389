"""The networks of Larq's model zoo, tutorials and guides, and forms that users write, in small.

Each function writes a network anew after its paper and its public definition: its layers and their
arguments, with fewer filters, smaller images and a class count of one's own. Weights are random;
`settled` makes them look trained. `NETWORKS` has them all by name.

# References
    - [Larq Zoo](https://docs.larq.dev/zoo/)
    - [Larq's tutorials](https://docs.larq.dev/larq/tutorials/mnist/)
    - [Larq Compute Engine's guides](https://docs.larq.dev/compute-engine/end_to_end/)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from larq_ensemble.keras import keras, lq, tf

layers = keras.layers

STE = {
    "input_quantizer": "ste_sign",
    "kernel_quantizer": "ste_sign",
    "kernel_constraint": "weight_clip",
    "use_bias": False,
}


def clipped(value: float) -> dict[str, Any]:
    """Binary layers that clip at another value than 1."""
    return {
        "input_quantizer": lq.quantizers.SteSign(clip_value=value),
        "kernel_quantizer": lq.quantizers.SteSign(clip_value=value),
        "kernel_constraint": lq.constraints.WeightClip(clip_value=value),
        "kernel_initializer": "glorot_normal",
        "use_bias": False,
    }


def settled(model: keras.Model, seed: int = 0) -> keras.Model:
    """Makes an untrained network look trained.

    Scales, offsets and slopes become random, and the statistics of each batch norm those of random
    images, so that signs split about evenly in every layer.
    """
    draw = np.random.default_rng(seed)
    values = {
        "gamma": lambda shape: draw.normal(1, 0.2, shape),
        "beta": lambda shape: draw.normal(0, 0.3, shape),
        "alpha": lambda shape: draw.uniform(-0.2, 0.5, shape),
        "bias": lambda shape: draw.normal(0, 0.1, shape),
    }
    for weight in model.weights:
        kind = weight.name.split("/")[-1].split(":")[0]
        if kind in values:
            weight.assign(values[kind](weight.shape))
    norms = [layer for layer in all_layers(model) if isinstance(layer, layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(images(32, model.input_shape[1:]), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model


def images(count: int, shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Normalized float32 images `[count, *shape]` that differ in more than noise: of 4 x 4 areas.

    Global pooling would make images of noise alone look all the same.
    """
    draw = np.random.default_rng([seed, 1])
    height, width, channels = shape
    areas = draw.normal(size=(count, 4, 4, channels))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    return (areas[:, rows][:, :, columns] + draw.normal(size=(count, *shape)) / 2).astype("float32")


def all_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers of a model and of the models inside it."""
    return [
        inner
        for layer in model.layers
        for inner in (all_layers(layer) if isinstance(layer, keras.Model) else [layer])
    ]


# Larq Zoo, literature


def binary_alexnet(
    size: int = 64,
    filters: Sequence[int] = (32, 32, 64, 64, 32),
    units: int = 64,
    classes: int = 10,
) -> keras.Model:
    """BinaryAlexNet (Hubara et al. 2016): ends in a binary 1x1 convolution and a batch norm.

    The original: 224, (64, 192, 384, 384, 256), 4096.
    """
    image = x = keras.Input((size, size, 3))
    kernels, strides = (11, 5, 3, 3, 3), (4, 1, 1, 1, 1)
    for index, (count, kernel, stride) in enumerate(zip(filters, kernels, strides)):
        options = {**STE, "input_quantizer": STE["input_quantizer"] if index else None}
        x = lq.layers.QuantConv2D(count, kernel, strides=stride, padding="same", **options)(x)
        if index in (0, 1, 4):
            x = layers.MaxPool2D(3, strides=2)(x)
        x = layers.BatchNormalization(scale=False, momentum=0.9)(x)
    x = layers.Reshape((1, 1, -1))(x)
    for count in (units, units, classes):
        x = lq.layers.QuantConv2D(count, 1, **STE)(x)
        x = layers.BatchNormalization(scale=False, momentum=0.9)(x)
    x = layers.Activation("softmax", dtype="float32")(layers.Flatten()(x))
    return keras.Model(image, x, name="binary_alexnet")


@lq.utils.set_precision(1)
@lq.utils.register_keras_custom_object
def xnor_scale(x: tf.Tensor) -> tf.Tensor:
    """sign(w) mean|w|, the mean for each filter."""
    x = tf.clip_by_value(x, -1, 1)
    return tf.reduce_mean(tf.abs(x), axis=[0, 1, 2], keepdims=True) * lq.quantizers.ste_sign(x)


def xnornet(
    size: int = 96,
    filters: Sequence[int] = (32, 64, 64, 64, 64),
    units: int = 64,
    classes: int = 10,
) -> keras.Model:
    """XNOR-Net (Rastegari et al. 2016): a quantizer that is a function, with a scale a filter.

    The original: 224, (96, 256, 384, 384, 256), 4096.
    """
    regularizer = keras.regularizers.l2(5e-7)
    binary = {**STE, "kernel_quantizer": xnor_scale, "kernel_regularizer": regularizer}
    norm = partial(layers.BatchNormalization, momentum=0.9, scale=False, epsilon=1e-4)
    pool = partial(layers.MaxPool2D, pool_size=3, strides=2)

    image = keras.Input((size, size, 3))
    x = layers.Conv2D(
        filters[0],
        11,
        strides=4,
        padding="same",
        use_bias=False,
        kernel_regularizer=regularizer,
    )(image)
    x = pool()(layers.Activation("relu")(norm()(x)))
    for index, count in enumerate(filters[1:]):
        kernel = 3 if index else 5
        x = lq.layers.QuantConv2D(count, kernel, padding="same", **binary)(norm()(x))
        if index in (0, 3):
            x = pool()(x)
    x = lq.layers.QuantConv2D(units, x.shape[1:3], **binary)(norm()(x))
    x = lq.layers.QuantConv2D(units, 1, **binary)(norm()(x))
    x = layers.Flatten()(layers.Activation("relu")(norm()(x)))
    x = layers.Dense(classes, use_bias=False, kernel_regularizer=regularizer)(x)
    return keras.Model(image, layers.Activation("softmax", dtype="float32")(x), name="xnornet")


@lq.utils.register_keras_custom_object
@lq.utils.set_precision(1)
def layer_scale(x: tf.Tensor) -> tf.Tensor:
    """sign(w) mean|w|, one mean for the layer; the gradient of the identity."""
    scale = tf.stop_gradient(tf.reduce_mean(tf.abs(x)))

    @tf.custom_gradient
    def scaled_sign(x: tf.Tensor) -> Any:
        return lq.math.sign(x) * scale, lambda gradient: gradient

    return scaled_sign(x)


@lq.utils.register_keras_custom_object
def clip_to_unit(x: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(x, 0, 1)


def dorefanet(
    size: int = 64,
    filters: Sequence[int] = (32, 32, 64, 64, 32),
    units: int = 64,
    classes: int = 10,
) -> keras.Model:
    """DoReFa-Net (Zhou et al. 2016): binary weights, inputs of two bits, hidden dense layers.

    The original: 224, (96, 256, 384, 384, 256), 4096.
    """
    binary = {
        "input_quantizer": lq.quantizers.DoReFaQuantizer(k_bit=2),
        "kernel_quantizer": layer_scale,
        "use_bias": False,
    }
    norm = partial(layers.BatchNormalization, momentum=0.9, scale=False, epsilon=1e-4)

    image = keras.Input((size, size, 3))
    x = layers.Conv2D(filters[0], 12, strides=4)(image)
    pools = ("same", "same", None, "valid")
    for index, (count, pool) in enumerate(zip(filters[1:], pools)):
        kernel = 3 if index else 5
        x = norm()(lq.layers.QuantConv2D(count, kernel, padding="same", **binary)(x))
        if pool:
            x = layers.MaxPool2D(3, strides=2, padding=pool)(x)
    x = layers.Flatten()(x)
    for _ in range(2):
        x = norm()(lq.layers.QuantDense(units, **binary)(x))
    x = layers.Dense(classes)(layers.Activation(clip_to_unit)(x))
    return keras.Model(image, layers.Activation("softmax", dtype="float32")(x), name="dorefanet")


def _global_pool(x: Any) -> Any:
    """Larq Zoo's global pooling: an average over the whole map, then Flatten."""
    return layers.Flatten()(layers.AveragePooling2D(x.shape[1:3])(x))


def birealnet(
    size: int = 32, filters: int = 32, stages: Sequence[int] = (2, 2), classes: int = 10
) -> keras.Model:
    """Bi-Real Net (Liu et al. 2018): a shortcut around every binary convolution.

    The original: 224, 64, (4, 4, 4, 4).
    """
    binary = {
        **STE,
        "input_quantizer": "approx_sign",
        "kernel_quantizer": "magnitude_aware_sign",
        "padding": "same",
    }
    norm = partial(layers.BatchNormalization, momentum=0.8)

    def block(x: Any, count: int) -> Any:
        shortcut, strides = x, 1
        if count != x.shape[-1]:
            shortcut = layers.AvgPool2D(2, strides=2, padding="same")(x)
            shortcut = norm()(layers.Conv2D(count, 1, use_bias=False)(shortcut))
            strides = 2
        x = lq.layers.QuantConv2D(count, 3, strides=strides, **binary)(x)
        return layers.add([norm()(x), shortcut])

    image = keras.Input((size, size, 3))
    x = layers.Conv2D(filters, 7, strides=2, padding="same", use_bias=False)(image)
    x = layers.MaxPool2D(3, strides=2, padding="same")(norm()(x))
    for stage, blocks in enumerate(stages):
        for _ in range(blocks):
            x = block(x, filters * 2**stage)
    x = layers.Dense(classes)(_global_pool(x))
    return keras.Model(image, layers.Activation("softmax", dtype="float32")(x), name="birealnet18")


def binary_resnet_e18(
    size: int = 32,
    stages: Sequence[int] = (1, 1),
    filters: Sequence[int] = (32, 64),
    classes: int = 10,
) -> keras.Model:
    """BinaryResNetE18 (Bethge et al. 2019).

    The original: 224, (2, 2, 2, 2), (64, 128, 256, 512), and a stem of stride 2 with pooling.
    """
    norm = partial(layers.BatchNormalization, momentum=0.9, epsilon=1e-5)

    def block(x: Any, count: int, strides: int) -> Any:
        residual = x
        if x.shape[-1] != count:
            residual = layers.AvgPool2D(2, strides=2)(x)
            residual = norm()(layers.Conv2D(count, 1, use_bias=False)(residual))
        x = lq.layers.QuantConv2D(count, 3, strides=strides, padding="same", **clipped(1.25))(x)
        return layers.add([norm()(x), residual])

    image = keras.Input((size, size, 3))
    x = layers.Conv2D(filters[0], 3, padding="same", use_bias=False)(image)
    for stage, (blocks, count) in enumerate(zip(stages, filters)):
        for index in range(2 * blocks):
            x = block(x, count, 2 if stage and index == 0 else 1)
    x = layers.Dense(classes)(_global_pool(layers.Activation("relu")(x)))
    return keras.Model(
        image, layers.Activation("softmax", dtype="float32")(x), name="binary_resnet_e_18"
    )


#: BinaryDenseNets by name: layers of each block, reductions between blocks, dilations. In the
#: original the layers are (6, 6, 6, 5), (6, 8, 12, 6), the same, and (6, 12, 14, 8).
DENSENETS: dict[str, Any] = {
    "binary_densenet28": ((2, 2, 2, 1), (2.7, 2.7, 2.2), (1, 1, 1, 1)),
    "binary_densenet37": ((2, 2, 3, 2), (3.3, 3.3, 4), (1, 1, 1, 1)),
    "binary_densenet37_dilated": ((2, 2, 3, 2), (3.3, 3.3, 4), (1, 1, 2, 4)),
    "binary_densenet45": ((2, 3, 4, 2), (2.7, 3.3, 4), (1, 1, 1, 1)),
}


def binary_densenet(
    name: str, size: int = 32, filters: int = 32, growth: int = 32, classes: int = 10
) -> keras.Model:
    """BinaryDenseNet (Bethge et al. 2019): every layer's outputs are concatenated.

    The original: 224, 64, 64, and a stem of stride 2 with pooling.
    """
    blocks, reductions, dilations = DENSENETS[name]
    norm = partial(layers.BatchNormalization, momentum=0.9, epsilon=1e-5)

    image = keras.Input((size, size, 3))
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(image)
    for index, (count, dilation) in enumerate(zip(blocks, dilations)):
        if index:
            x = norm()(x)
            if dilation == 1:
                x = layers.MaxPooling2D(2, strides=2)(x)
            kept = round(x.shape[-1] // reductions[index - 1] / 32) * 32
            x = layers.Conv2D(kept, 1, use_bias=False)(layers.Activation("relu")(x))
        for _ in range(count):
            y = lq.layers.QuantConv2D(
                growth, 3, dilation_rate=dilation, padding="same", **clipped(1.3)
            )(norm()(x))
            x = layers.concatenate([x, y])
    x = layers.Dense(classes)(_global_pool(layers.Activation("relu")(norm()(x))))
    return keras.Model(image, layers.Activation("softmax", dtype="float32")(x), name=name)


def meliusnet22(
    size: int = 32,
    blocks: Sequence[int] = (1, 1, 1, 1),
    kept: Sequence[int | None] = (96, 96, 128, None),
    growth: int = 32,
    classes: int = 10,
) -> keras.Model:
    """MeliusNet-22 (Bethge et al. 2020): Lambda layers split, concatenate, pad and add.

    The original: 224, (4, 5, 4, 4), (160, 224, 256, None), 64.
    """
    norm = partial(layers.BatchNormalization, momentum=0.9, epsilon=1e-5)
    binary = partial(lq.layers.QuantConv2D, growth, 3, padding="same", **clipped(1.3))

    def operation(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return layers.Lambda(lambda x: function(x, *args, **options))

    def grouped(x: Any, filters: int, groups: int) -> Any:
        parts = operation(tf.split, groups, axis=-1)(x)
        convolve = [
            layers.Conv2D(filters // groups, 3, padding="same", use_bias=False)(part)
            for part in parts
        ]
        return operation(tf.concat, axis=-1)(convolve)

    def padded_sum(x: Any, y: Any) -> Any:
        missing = x.shape[-1] - y.shape[-1]
        return layers.Lambda(
            lambda both: both[0] + tf.pad(both[1], [[0, 0], [0, 0], [0, 0], [missing, 0]])
        )([x, y])

    image = keras.Input((size, size, 3))
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False)(image)
    x = grouped(layers.Activation("relu")(norm()(x)), 32, 4)
    x = grouped(layers.Activation("relu")(norm()(x)), 64, 8)
    x = layers.MaxPool2D(2, strides=2, padding="same")(layers.Activation("relu")(norm()(x)))
    for count, filters in zip(blocks, kept):
        for _ in range(count):
            x = operation(tf.concat, axis=-1)([x, binary()(norm()(x))])
            x = padded_sum(x, binary()(norm()(x)))
        if filters:
            x = layers.MaxPool2D(2, strides=2, padding="same")(norm()(x))
            x = layers.Conv2D(filters, 1, use_bias=False)(layers.Activation("relu")(x))
    x = layers.Dense(classes)(_global_pool(layers.Activation("relu")(norm()(x))))
    return keras.Model(image, layers.Activation("softmax", dtype="float32")(x), name="meliusnet22")


def real_to_binary(
    size: int = 32, filters: int = 32, blocks: int = 3, classes: int = 10
) -> keras.Model:
    """RealToBinaryNet (Martinez et al. 2020): scales computed from the inputs, and Lambda layers.

    The original: 224, 64, 8.
    """

    def scales(x: Any, count: int) -> Any:
        options = {"kernel_initializer": "he_normal", "use_bias": False}
        x = layers.Dense(x.shape[-1] // 8, activation="relu", **options)(_global_pool(x))
        x = layers.Dense(count, activation="sigmoid", **options)(x)
        return layers.Reshape((1, 1, count))(x)

    def half_block(x: Any, strides: int) -> Any:
        count = x.shape[-1] * strides
        shortcut = x
        if strides > 1:
            shortcut = layers.AvgPool2D(2, strides=2, padding="same")(x)
            shortcut = layers.Conv2D(count, 1, use_bias=False)(shortcut)
            shortcut = layers.BatchNormalization()(shortcut)
        x = layers.BatchNormalization()(x)
        y = lq.layers.QuantConv2D(count, 3, strides=strides, padding="same", **STE)(x)
        y = layers.Multiply()([y, scales(x, count)])
        y = layers.PReLU(shared_axes=[1, 2])(y)
        return layers.Add()([y, shortcut])

    image = keras.Input((size, size, 3))
    x = layers.Conv2D(filters, 7, strides=2, padding="same", use_bias=False)(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.MaxPool2D(3, strides=2, padding="same")(x)
    for index in range(blocks):
        x = half_block(x, 2 if index and index % 2 == 0 else 1)
        x = half_block(x, 1)
        x = layers.Lambda(lambda x: x, name=f"block_{index}_out")(x)
    x = layers.Dense(classes)(_global_pool(x))
    return keras.Model(image, layers.Softmax(dtype="float32")(x), name="r2b_bnn")


# Larq Zoo, state of the art


def _blur(shape: Sequence[int], dtype: Any = None) -> np.ndarray:
    """The fixed filter of blur pooling (Zhang 2019)."""
    row = {2: [1, 1], 3: [1, 2, 1], 5: [1, 4, 6, 4, 1]}[shape[0]]
    kernel = np.outer(row, row) / np.sum(row) ** 2
    return np.broadcast_to(kernel[..., np.newaxis, np.newaxis], shape)


#: QuickNets by name: blocks and filters of each section. In the original the blocks are
#: (4, 4, 4, 4), or (6, 8, 12, 6) in the large one, and the filters (64, 128, 256, 512), or
#: (32, 64, 256, 512) in the small one.
QUICKNETS: dict[str, Any] = {
    "quicknet": ((2, 2), (32, 64)),
    "quicknet_small": ((2, 2), (16, 32)),
    "quicknet_large": ((3, 4), (32, 64)),
}


def quicknet(name: str, size: int = 32, classes: int = 10) -> keras.Model:
    """QuickNet (Bannink et al. 2021): additions by `+`, frozen blur pooling, a real QuantDense."""

    def transition(x: Any, filters: int) -> Any:
        x = layers.MaxPool2D(2, strides=1)(layers.Activation("relu")(x))
        x = layers.DepthwiseConv2D(
            3,
            depthwise_initializer=_blur,
            padding="same",
            strides=2,
            trainable=False,
            use_bias=False,
        )(x)
        x = lq.layers.QuantConv2D(filters, 1, use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)

    def block(x: Any) -> Any:
        y = lq.layers.QuantConv2D(
            x.shape[-1], 3, activation="relu", padding="same", pad_values=1.0, **clipped(1.25)
        )(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(y) + x

    blocks, filters = QUICKNETS[name]
    image = keras.Input((size, size, 3))
    x = lq.layers.QuantConv2D(filters[0] // 4, 3, padding="same", strides=2, use_bias=False)(image)
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    x = lq.layers.QuantDepthwiseConv2D(3, padding="same", strides=2, use_bias=False)(x)
    x = layers.BatchNormalization(scale=False, center=False)(x)
    x = lq.layers.QuantConv2D(filters[0], 1, use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    for count, channels in zip(blocks, filters):
        if channels != x.shape[-1]:
            x = transition(x, channels)
        for _ in range(count):
            x = block(x)
    x = _global_pool(layers.Activation("relu")(x))
    x = layers.Activation("softmax", dtype="float32")(lq.layers.QuantDense(classes)(x))
    return keras.Model(image, x, name=name)


# Larq's tutorials and guides


def mnist_tutorial(
    size: int = 28, filters: Sequence[int] = (32, 64, 64), units: int = 64, classes: int = 10
) -> keras.Model:
    """Larq's tutorial "Introduction to BNNs with Larq", in its own size: a Sequential model.

    It ends in a binary dense layer, a batch norm and a softmax.
    """
    model = keras.Sequential(name="mnist_tutorial")
    first = {**STE, "input_quantizer": None, "input_shape": (size, size, 1)}
    model.add(lq.layers.QuantConv2D(filters[0], 3, **first))
    model.add(layers.MaxPooling2D(2))
    model.add(layers.BatchNormalization(scale=False))
    model.add(lq.layers.QuantConv2D(filters[1], 3, **STE))
    model.add(layers.MaxPooling2D(2))
    model.add(layers.BatchNormalization(scale=False))
    model.add(lq.layers.QuantConv2D(filters[2], 3, **STE))
    model.add(layers.BatchNormalization(scale=False))
    model.add(layers.Flatten())
    model.add(lq.layers.QuantDense(units, **STE))
    model.add(layers.BatchNormalization(scale=False))
    model.add(lq.layers.QuantDense(classes, **STE))
    model.add(layers.BatchNormalization(scale=False))
    model.add(layers.Activation("softmax"))
    return model


def cifar10_tutorial(
    size: int = 32,
    filters: Sequence[int] = (32, 32, 64, 64, 64, 64),
    units: int = 64,
    classes: int = 10,
) -> keras.Model:
    """Larq's tutorial "BinaryNet on CIFAR-10" (Hubara et al. 2016).

    The original: 32, (128, 128, 256, 256, 512, 512), 1024.
    """
    norm = partial(layers.BatchNormalization, momentum=0.999, scale=False)
    first = {**STE, "input_quantizer": None, "input_shape": (size, size, 3)}
    model = keras.Sequential(name="cifar10_tutorial")
    for index, count in enumerate(filters):
        options = {**STE, "padding": "same"} if index else first
        model.add(lq.layers.QuantConv2D(count, 3, **options))
        if index % 2:
            model.add(layers.MaxPool2D(2))
        model.add(norm())
    model.add(layers.Flatten())
    for count in (units, units, classes):
        model.add(lq.layers.QuantDense(count, **STE))
        model.add(norm())
    model.add(layers.Activation("softmax"))
    return model


def dense_guide(size: int = 28, units: int = 64, classes: int = 10) -> keras.Model:
    """Larq's guide "Key concepts": two binary dense layers, the last with a softmax.

    The original: 28, 512.
    """
    binary = {"kernel_quantizer": "ste_sign", "kernel_constraint": "weight_clip"}
    head = lq.layers.QuantDense(classes, input_quantizer="ste_sign", activation="softmax", **binary)
    image = keras.Input((size, size, 1))
    x = lq.layers.QuantDense(units, **binary)(layers.Flatten()(image))
    return keras.Model(image, head(x), name="dense_guide")


def lce_guide(size: int = 32, classes: int = 10) -> keras.Model:
    """The custom model of LCE's guide "End-to-end", in its own size."""
    return keras.Sequential(
        [
            layers.Input((size, size, 3), name="input"),
            layers.Conv2D(32, 5, padding="same", strides=3),
            layers.BatchNormalization(),
            lq.layers.QuantConv2D(32, 3, padding="same", strides=2, **STE),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            lq.layers.QuantConv2D(64, 3, padding="same", strides=2, **STE),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(classes, activation="softmax"),
        ],
        name="lce_guide",
    )


# Forms that users write


def network_in_network(size: int = 32, filters: int = 32, classes: int = 10) -> keras.Model:
    """NIN (Lin et al. 2014) with binary convolutions: a 1x1 convolution, pooling, a softmax."""
    image = keras.Input((size, size, 3))
    x = layers.Conv2D(filters, 5, padding="same", use_bias=False)(image)
    x = layers.BatchNormalization()(x)
    for _ in range(2):
        for kernel in (3, 1, 1):
            x = lq.layers.QuantConv2D(filters, kernel, padding="same", **STE)(x)
            x = layers.BatchNormalization()(x)
        x = layers.MaxPool2D(2)(x)
    x = layers.Conv2D(classes, 1, name="head")(layers.Activation("relu")(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Activation("softmax")(x), name="network_in_network")


def mobilenet(size: int = 32, filters: int = 16, classes: int = 10) -> keras.Model:
    """MobileNet (Howard et al. 2017) with binary pointwise convolutions.

    As `keras.applications.MobileNet`, it ends in global pooling that keeps the axes, dropout, a
    1x1 convolution, a Reshape and a softmax.
    """
    image = keras.Input((size, size, 3))
    x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(image)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    for strides, count in ((1, 2), (2, 2), (1, 4)):
        x = layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = lq.layers.QuantConv2D(count * filters, 1, padding="same", **STE)(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Conv2D(classes, 1, padding="same")(layers.Dropout(0.001)(x))
    x = layers.Activation("softmax")(layers.Reshape((classes,))(x))
    return keras.Model(image, x, name="mobilenet")


def _features(size: int, filters: int) -> keras.Model:
    """What a pretrained network without its top is: an image in, feature maps out."""
    image = keras.Input((size, size, 3))
    x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False, name="stem")(image)
    x = layers.BatchNormalization(name="stem_norm")(x)
    for index in range(2):
        y = lq.layers.QuantConv2D(filters, 3, padding="same", name=f"conv_{index}", **STE)(x)
        x = layers.Add(name=f"sum_{index}")([x, layers.BatchNormalization(name=f"norm_{index}")(y)])
    return keras.Model(image, x, name="features")


def transfer_learning(size: int = 32, filters: int = 32, classes: int = 10) -> keras.Model:
    """Keras's guide "Transfer learning": a pretrained network inside, as one layer, and a head."""
    image = keras.Input((size, size, 3))
    x = layers.Rescaling(2.0, offset=-0.5)(image)
    x = _features(size, filters)(x, training=False)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(classes)(x), name="transfer_learning")


def two_classes(size: int = 32, filters: int = 32) -> keras.Model:
    """Keras's form of a binary classifier: one unit with a sigmoid."""
    x = layers.GlobalAveragePooling2D()((features := _features(size, filters)).output)
    return keras.Model(features.input, layers.Dense(1, activation="sigmoid")(x), name="two_classes")


def sequential_blocks(size: int = 32, filters: int = 32, classes: int = 10) -> keras.Model:
    """Blocks as Sequential models inside a Sequential model."""

    def block(index: int) -> keras.Model:
        conv = lq.layers.QuantConv2D(filters, 3, padding="same", **STE, name="conv")
        parts = [conv, layers.BatchNormalization(name="norm"), layers.MaxPool2D(2, name="pool")]
        return keras.Sequential(parts, name=f"block_{index}")

    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            layers.Conv2D(filters, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            block(0),
            block(1),
            layers.GlobalAveragePooling2D(),
            layers.Dense(classes, activation="softmax"),
        ],
        name="sequential_blocks",
    )


#: Every network by name: Larq Zoo, Larq's tutorials and guides, what users write.
NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "binary_alexnet": binary_alexnet,
    "xnornet": xnornet,
    "dorefanet": dorefanet,
    "birealnet18": birealnet,
    "binary_resnet_e18": binary_resnet_e18,
    **{name: partial(binary_densenet, name) for name in DENSENETS},
    "meliusnet22": meliusnet22,
    "real_to_binary": real_to_binary,
    **{name: partial(quicknet, name) for name in QUICKNETS},
    "mnist_tutorial": mnist_tutorial,
    "cifar10_tutorial": cifar10_tutorial,
    "dense_guide": dense_guide,
    "lce_guide": lce_guide,
    "network_in_network": network_in_network,
    "mobilenet": mobilenet,
    "transfer_learning": transfer_learning,
    "two_classes": two_classes,
    "sequential_blocks": sequential_blocks,
}
