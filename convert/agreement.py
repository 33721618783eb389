"""Keras against the converted bytes on a few images, before a conversion writes its file.

The measure is the deviation that `larq_ensemble.convert.comparison` defines. Both sides get the
same normalization, so they can't tell whether training had another one. The statistics of the first
batch norm can: see `check_input_scale`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from larq_ensemble.convert.comparison import (
    Agreement,
    compared_members,
    deviation,
    member_logits,
)
from larq_ensemble.data.normalization import Normalization
from larq_ensemble.ensembles import Ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf
from larq_ensemble.models.functional import run_functional
from larq_ensemble.runtime.file import checked_ensemble

#: The largest deviation of a correct conversion, by the precision of members' values. Measured over
#: seven architectures with trained and random members, all layouts and formats: at most 0.01, and
#: 0.4 in the precision `compact`, which changes the values. Unrelated logits deviate by 1.4.
LIMITS = {"float32": 0.1, "compact": 0.8}
#: How far the variance of the first batch norm's input may be from that in training: images of our
#: own differ from a user's, and a wrong scale of pixels changes the variance by 4,000 or more.
SCALE_LIMIT, SCALE_LIMIT_OF_GIVEN_IMAGES = 100.0, 10.0


def check_agreement(
    ensemble: Ensemble,
    data: bytes,
    normalization: Normalization,
    images: np.ndarray,
) -> Agreement:
    """Compares the logits of up to three members in Keras and in a file's bytes.

    Members that were never trained, with batch norms as they were initialized, are compared but
    nothing is refused: they compare sums with exactly 0, where rounding decides. `as_if_trained`
    gives them statistics with which they can be compared.

    # Arguments
        ensemble: the ensemble.
        data: the file, of all members or of the first ones.
        normalization: what the file was converted with.
        images: `[n, height, width, channels]`, raw pixels.

    # Raises
        EnsembleError: if a member's deviation is above the limit.
    """
    file = checked_ensemble(data)
    members = compared_members(file.metadata.members)
    ours = member_logits(file, images, members)
    outputs = [ensemble.outputs[member] for member in members]
    network = keras.Model(ensemble.inputs, outputs)
    normalized = normalization(images.astype(np.float32))
    expected = _logits(network, normalized)
    limit = LIMITS[file.metadata.precision]
    agreement = Agreement.of(ours, expected, members, limit=limit)
    if is_untrained(ensemble):
        return agreement
    if max(agreement.deviation) > agreement.limit:
        one_by_one = np.concatenate([_logits(network, x[np.newaxis]) for x in normalized], axis=1)
        if max(map(deviation, ours, one_by_one)) <= agreement.limit:
            raise EnsembleError(
                "The network's logits of an image depend on the other images of the batch, so a "
                "file, which gets one at a time, can't compute them: use no input quantizer that "
                "averages over its input, such as magnitude_aware_sign."
            )
    for member, distance in zip(members, agreement.deviation):
        if not distance <= agreement.limit:
            raise EnsembleError(
                f"The converted file doesn't compute what Keras computes: the logits of member "
                f"{member} differ by {distance:.2g} of their length on {len(images)} images, and "
                f"a correct conversion stays below {agreement.limit}. Nothing was written. This is "
                "a fault of the converter: please report the network's layers."
            )
    return agreement


@contextlib.contextmanager
def as_if_trained(
    ensemble: Ensemble, normalization: Normalization, images: np.ndarray
) -> Iterator[None]:
    """Within the block, the batch norms of the members that are compared have seen images.

    # Arguments
        ensemble: not trained.
        normalization, images: as for `check_agreement`.
    """
    norms = [
        layer for layer in ensemble.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    before = [norm.get_weights() for norm in norms]

    def call(layer: keras.layers.Layer, args: Any, kwargs: Any) -> Any:
        if layer in norms:
            axes = [axis for axis in range(args[0].shape.rank) if axis not in layer.axis]
            mean, variance = tf.nn.moments(args[0], axes)
            layer.moving_mean.assign(tf.reshape(mean, layer.moving_mean.shape))
            layer.moving_variance.assign(tf.reshape(variance, layer.moving_variance.shape))
        return layer(*args, **kwargs)

    try:
        for member in compared_members(ensemble.members):
            network = ensemble.member(member)
            pixels = tf.constant(normalization(images.astype(np.float32)))
            known = {network.inputs[0].ref(): pixels}
            run_functional(network.layers, known, network.outputs, call)
        yield
    finally:
        for norm, weights in zip(norms, before, strict=True):
            norm.set_weights(weights)


def check_input_scale(
    ensemble: Ensemble, normalization: Normalization, images: np.ndarray, *, are_given: bool
) -> None:
    """Warns if images were scaled otherwise in training.

    The first batch norm keeps the variance that its input had in training. With another scale of
    the pixels the variance is another one, by the factor squared.

    # Arguments
        are_given: whether the images are the user's own.
    """
    norm = next(
        (
            layer
            for layer in ensemble.member(0).layers
            if isinstance(layer, keras.layers.BatchNormalization)
        ),
        None,
    )
    if norm is None or _is_initial(norm):
        return
    inputs = [tf.constant(normalization(images.astype(np.float32)))] * len(ensemble.inputs)
    values = keras.Model(ensemble.inputs, norm.get_input_at(0))(inputs, training=False).numpy()
    variance = values.reshape(-1, values.shape[-1]).var(axis=0)
    ratio = float(np.median(variance / (norm.moving_variance.numpy() + norm.epsilon)))
    limit = SCALE_LIMIT_OF_GIVEN_IMAGES if are_given else SCALE_LIMIT
    if not 1 / limit <= ratio <= limit:
        warnings.warn(
            "The network was trained on images of another scale: with this normalization the input "
            f"of its first batch norm, {norm.name!r}, has {ratio:.2g} times the variance that it "
            "had in training, so the file will hardly classify images right. Check the "
            "normalization; that of a network which takes pixels from 0 to 255 is "
            "Normalization.raw(channels).",
            stacklevel=3,
        )


def _logits(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Keras's logits, float32 `[members, n, classes]`."""
    outputs = network([tf.constant(images)] * len(network.inputs), training=False)
    return np.stack([np.asarray(logits, np.float32) for logits in tf.nest.flatten(outputs)])


def is_untrained(ensemble: Ensemble) -> bool:
    """Whether all batch norms are as they were initialized."""
    norms = [
        layer for layer in ensemble.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    return bool(norms) and all(map(_is_initial, norms))


def _is_initial(norm: keras.layers.BatchNormalization) -> bool:
    """Whether the moving statistics are those before training."""
    mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
    return not mean.any() and (variance == 1).all()
