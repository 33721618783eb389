"""Input pipelines for training and evaluation, deterministic for a seed.

Stateless random numbers determine order and augmentation from (seed, epoch, step, stream) only. So
a resumed training sees the same batches as one without interruption.

Images on disk are read batch by batch, a few batches ahead of the training. Epochs are shuffled as
indices, so the order is as random as that of images in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from larq_ensemble.data.datasets import Dataset, Split
from larq_ensemble.data.streams import gatherer
from larq_ensemble.keras import tf
from larq_ensemble.training.augmentation import augmenter

Resample = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class Batches:
    """Arguments of `Model.fit`: a stream over the remaining epochs, and its steps per epoch.

    The last batch of an epoch has `last_batch_size` images.
    """

    stream: tf.data.Dataset
    steps_per_epoch: int
    batch_size: int
    last_batch_size: int


def training_batches(
    data: Split,
    dataset: Dataset,
    *,
    batch_size: int,
    epochs: int,
    initial_epoch: int = 0,
    seed: int = 0,
    inputs: int = 1,
    outputs: tuple[str, ...] = (),
    sample_weights: Resample | None = None,
    part: Resample | None = None,
    class_weights: np.ndarray | None = None,
    drop_remainder: bool = True,
) -> Batches:
    """Shuffled, augmented and normalized batches from `initial_epoch` to `epochs`.

    # Arguments
        data: the training images.
        dataset: its augmentation and normalization.
        batch_size: images per step; with fewer images, all of them.
        epochs, initial_epoch: the stream covers the epochs in between.
        seed: of order, crops and flips.
        inputs: number of independent streams, each with its own order and augmentation, for models
            with an input for each member. 1: all outputs see the same batch.
        outputs: names of the outputs that get labels (and weights); none: plain (x, y) pairs.
        sample_weights: (indices int32 [batch], seed int64 [2]) -> float32 [members, batch], the
            sample weights of each member (bagging). Row i is for `outputs[i]`; with several inputs
            it is for the indices of stream i.
        part: (indices int32 [batch], seed int64 [2]) -> float32 [1, batch]; a batch for one network
            has only the examples whose value is not 0.
        class_weights: float32 [classes], multiplies the weight of each example by that of its
            class; `None`: all 1.
        drop_remainder: drop the last batch of an epoch if it is incomplete. Its images come back in
            other epochs.

    # Returns
        Elements (x, y) or (x, y, weights): x float32 [batch, h, w, c] or a tuple of `inputs` of
        them; y int32 [batch] and weights float32 [batch], or dictionaries of them by output.
    """
    batch_size = min(batch_size, len(data))
    steps = steps_per_epoch(len(data), batch_size, drop_remainder=drop_remainder)
    batch_of = batch_maker(
        gatherer(data.images),
        tf.constant(data.labels),
        dataset,
        seed=seed,
        inputs=inputs,
        outputs=outputs,
        sample_weights=sample_weights,
        class_weights=class_weights,
    )

    def indices_of(epoch: tf.Tensor) -> tf.data.Dataset:
        orders = tf.stack(
            [
                tf.random.experimental.stateless_shuffle(
                    tf.range(len(data)), seed=_seed(seed, epoch * inputs + stream, 0)
                )
                for stream in range(inputs)
            ],
            axis=1,
        )
        batches = tf.data.Dataset.from_tensor_slices(orders)
        return batches.batch(batch_size, drop_remainder=drop_remainder).enumerate(epoch * steps)

    def batch_at(number: tf.Tensor, indices: tf.Tensor) -> tuple[Any, ...]:
        indices = tf.transpose(indices)  # [inputs, batch]
        if part is not None:
            weights = part(indices[0], _seed(seed, number, 2))
            indices = tf.boolean_mask(indices, weights[0] > 0, axis=1)
        return batch_of(number, indices)

    stream = (
        tf.data.Dataset.range(initial_epoch, epochs)
        .flat_map(indices_of)
        .map(batch_at, num_parallel_calls=2, deterministic=True)
        .prefetch(4)
    )
    last = len(data) - (steps - 1) * batch_size
    return Batches(stream, steps, batch_size, min(last, batch_size))


def batch_maker(
    images_at: Callable[[tf.Tensor], tf.Tensor],
    labels: tf.Tensor,
    dataset: Dataset,
    *,
    seed: int | tf.Tensor,
    inputs: int = 1,
    outputs: tuple[str, ...] = (),
    sample_weights: Resample | None = None,
    class_weights: np.ndarray | None = None,
) -> Callable[[tf.Tensor, tf.Tensor], tuple[Any, ...]]:
    """What makes the batches of `training_batches`, whose arguments these are.

    # Arguments
        images_at: (indices int [k]) -> images.
        labels: int32 [n], of all images.

    # Returns
        (number of the step, indices int [inputs, batch]) -> an element of the stream.
    """
    augment = augmenter(dataset.augmentation, dataset.input_shape)

    def batch_of(number: tf.Tensor, indices: tf.Tensor) -> tuple[Any, ...]:
        x = tuple(
            _normalized(
                augment(images_at(indices[stream]), _seed(seed, number * inputs + stream, 1)),
                dataset,
            )
            for stream in range(inputs)
        )
        y = tuple(tf.gather(labels, indices[stream]) for stream in range(inputs))
        of_class = None if class_weights is None else [tf.gather(class_weights, each) for each in y]
        if not outputs:
            return (x[0], y[0]) if of_class is None else (x[0], y[0], of_class[0])
        stream_of = range(len(outputs)) if inputs > 1 else [0] * len(outputs)
        features = x if inputs > 1 else x[0]
        targets = {name: y[stream] for name, stream in zip(outputs, stream_of)}
        weights = {}
        if sample_weights is not None:
            resampled = [
                tf.unstack(
                    sample_weights(indices[stream], _seed(seed, number * inputs + stream, 2))
                )
                for stream in range(inputs)
            ]
            weights = {
                outputs[row]: resampled[stream_of[row]][row] for row in range(len(resampled[0]))
            }
        if of_class is not None:
            for name, stream in zip(outputs, stream_of):
                weights[name] = weights.get(name, 1.0) * of_class[stream]
        return (features, targets, weights) if weights else (features, targets)

    return batch_of


def steps_per_epoch(images: int, batch_size: int, *, drop_remainder: bool) -> int:
    """Batches of an epoch, as `training_batches` makes them."""
    return images // batch_size if drop_remainder else -(-images // batch_size)


def evaluation_batches(
    data: Split, dataset: Dataset, *, batch_size: int = 250, inputs: int = 1
) -> tf.data.Dataset:
    """Normalized batches (x, y) in order, not augmented; for several inputs x is repeated."""

    batch_of = evaluation_batch_maker(
        gatherer(data.images), tf.constant(data.labels), dataset, inputs=inputs
    )

    return (
        tf.data.Dataset.range(len(data))
        .batch(batch_size)
        .map(batch_of, num_parallel_calls=2)
        .prefetch(2)
    )


def evaluation_batch_maker(
    images_at: Callable[[tf.Tensor], tf.Tensor],
    labels: tf.Tensor,
    dataset: Dataset,
    *,
    inputs: int = 1,
) -> Callable[[tf.Tensor], tuple[Any, tf.Tensor]]:
    """What makes the batches of `evaluation_batches`: (indices int [batch]) -> (x, y).

    # Arguments
        images_at, labels: as for `batch_maker`.
    """

    def batch_of(indices: tf.Tensor) -> tuple[Any, tf.Tensor]:
        x = _normalized(images_at(indices), dataset)
        return ((x,) * inputs if inputs > 1 else x), tf.gather(labels, indices)

    return batch_of


def _seed(seed: int | tf.Tensor, number: tf.Tensor | int, purpose: int) -> tf.Tensor:
    """A separate stateless seed for each purpose (0 order, 1 augmentation, 2 resampling)."""
    number = tf.cast(number, tf.int64)
    return tf.stack([tf.cast(seed, tf.int64), number * 3 + purpose])


def _normalized(images: tf.Tensor, dataset: Dataset) -> tf.Tensor:
    return dataset.normalization(tf.cast(images, tf.float32))
