"""Augmentation of training images: a function of the images and a seed.

A training that is resumed, or whose batches are made in parallel, must see the same images as one
without. So every change is drawn by stateless random numbers, from the seed of its step. Keras's
preprocessing layers can't do that: each holds a generator whose state changes with every call, no
argument seeds a call, and parallel calls would draw in any order. The changes are those of
`keras.layers.RandomRotation`, `RandomZoom`, `RandomBrightness` and `RandomContrast`, with a draw
for each image. Rotation and zoom are one resampling, which blurs less than two.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from larq_ensemble.data.augmentation import Augmentation
from larq_ensemble.keras import tf

Augment = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def augmenter(augmentation: Augmentation, shape: tuple[int, int, int]) -> Augment:
    """(images uint8 [n, h, w, c], seed int64 [2]) -> augmented images, pixels from 0 to 255.

    They stay uint8 if they are only cropped and mirrored; otherwise they are float32.

    # Arguments
        augmentation: the changes.
        shape: (height, width, channels).
    """
    cropped, turned = any(augmentation.padding), augmentation.rotation or augmentation.zoom

    def augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        count = tf.shape(images)[0]

        def drawn(number: int, largest: float) -> tf.Tensor:
            """A number of each image, uniform from -largest to largest."""
            of_change = tf.random.experimental.stateless_fold_in(seed, number)
            return tf.random.stateless_uniform([count], of_change, -largest, largest)

        if cropped or augmentation.flip:
            images = _cropped_and_flipped(images, seed, augmentation)
        if turned:
            angles = drawn(0, augmentation.rotation * np.pi / 180)
            images = turn_and_zoom(images, angles, 1 + drawn(1, augmentation.zoom))
        if augmentation.brightness:
            images = brighten(images, drawn(2, augmentation.brightness))
        if augmentation.contrast:
            images = change_contrast(images, 1 + drawn(3, augmentation.contrast))
        if augmentation.mixup:
            images = _mixed(
                images, tf.random.experimental.stateless_fold_in(seed, 4), augmentation.mixup
            )
        return tf.ensure_shape(images, [None, *shape])

    return augment


def _cropped_and_flipped(
    images: tf.Tensor, seed: tf.Tensor, augmentation: Augmentation
) -> tf.Tensor:
    """Random crops of the padded images, mirrored at random, by two gathers for the whole batch."""
    count, (height, width) = tf.shape(images)[0], images.shape[1:3]
    above, beside = augmentation.padding
    down, right = (
        tf.random.stateless_uniform([2, count], seed, 0, 2 * pad + 1, dtype=tf.int32)[axis]
        for axis, pad in enumerate((above, beside))
    )
    rows = down[:, tf.newaxis] + tf.range(height)
    columns = tf.tile(tf.range(width)[tf.newaxis], [count, 1])
    if augmentation.flip:
        mirrored = tf.random.stateless_uniform([count], seed + 1, 0, 2, dtype=tf.int32) > 0
        columns = tf.where(mirrored[:, tf.newaxis], width - 1 - columns, columns)
    columns += right[:, tf.newaxis]
    padded = tf.pad(images, [[0, 0], [above, above], [beside, beside], [0, 0]])
    return tf.gather(tf.gather(padded, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)


def turn_and_zoom(images: tf.Tensor, angles: tf.Tensor, zooms: tf.Tensor) -> tf.Tensor:
    r"""Turns images about their middle and shows a part of them that is `zooms` as large.

    The pixel at p is that of the image at \\( z R (p - m) + m \\), R the rotation and m the middle,
    interpolated bilinearly. The image goes on as its mirror image outside of its edges.

    # Arguments
        images: [n, h, w, c].
        angles: float32 [n], counter-clockwise, in radians.
        zooms: float32 [n], z.

    # Returns
        float32 [n, h, w, c].
    """
    height, width = images.shape[1:3]
    x, y, zeros = (width - 1) / 2, (height - 1) / 2, tf.zeros_like(angles)
    cos, sin = zooms * tf.cos(angles), zooms * tf.sin(angles)
    transforms = [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y, zeros, zeros]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=tf.stack(transforms, axis=1),
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def brighten(images: tf.Tensor, shares: tf.Tensor) -> tf.Tensor:
    """Adds `shares` [n] of the range of a pixel to images [n, h, w, c], within 0 to 255."""
    added = 255 * shares[:, tf.newaxis, tf.newaxis, tf.newaxis]
    return tf.clip_by_value(tf.cast(images, tf.float32) + added, 0, 255)


def change_contrast(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Scales the distance of pixels from their channel's mean by `factors` [n], within 0 to 255."""
    images = tf.cast(images, tf.float32)
    mean = tf.reduce_mean(images, axis=(1, 2), keepdims=True)
    factors = factors[:, tf.newaxis, tf.newaxis, tf.newaxis]
    # As (images - mean) * factors + mean, with one pass less.
    return tf.clip_by_value(images * factors + mean * (1 - factors), 0, 255)


def _mixed(images: tf.Tensor, seed: tf.Tensor, alpha: float) -> tf.Tensor:
    r"""Mixup with one label: each image, which keeps its label, with another of the batch.

    \\[ \tilde x_i = \lambda x_i + (1 - \lambda) x_j, \qquad
        \lambda \sim \mathrm{Beta}(\alpha + 1, \alpha), \qquad \tilde y_i = y_i \\]

    Zhang et al. draw \\( \lambda \sim \mathrm{Beta}(\alpha, \alpha) \\) and weigh the losses of
    both labels by \\( \lambda \\) and \\( 1 - \lambda \\). i and j are exchangeable, and \\( 2
    \lambda \\) times the density of the second is that of the first. So the expected loss and its
    gradient are the same for any loss, and labels stay class numbers, which all schemes, sample
    weights and metrics take.

    # References
        - Zhang et al. 2018, [mixup: Beyond empirical risk
          minimization](https://arxiv.org/abs/1710.09412).
        - Huszár 2017, [mixup: Data-dependent data
          augmentation](https://www.inference.vc/mixup-data-dependent-data-augmentation/).
    """
    images = tf.cast(images, tf.float32)
    count = tf.shape(images)[0]
    seeds = [tf.random.experimental.stateless_fold_in(seed, number) for number in range(3)]
    partners = tf.random.experimental.stateless_shuffle(tf.range(count), seeds[0])
    # Of two gamma variables the first's share of the sum is a beta variable.
    own, other = (
        tf.random.stateless_gamma([count, 1, 1, 1], of_draw, shape)
        for of_draw, shape in zip(seeds[1:], (alpha + 1, alpha))
    )
    share = own / (own + other)
    return share * images + (1 - share) * tf.gather(images, partners)
