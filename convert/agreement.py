"""Keras against the converted bytes on a few images, before a conversion writes its file.

A correct conversion differs by rounding: now and then a sign flips inside the network, and the
logits of an image change a little. A wrong one, by a fault of the converter, gives other logits on
every image. So the measure is the median over images of the distance between the two vectors of
logits, relative to their length:

    deviation = median |z_file - z_keras| / median |z_keras|

Both sides get the same normalization, so they can't tell whether training had another one. The
statistics of the first batch norm can: see `check_input_scale`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from larq_ensemble.data.normalization import Normalization
from larq_ensemble.ensembles import Ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf
from larq_ensemble.models.functional import run_functional
from larq_ensemble.runtime.backends.lce import LCE
from larq_ensemble.runtime.file import checked_ensemble
from larq_ensemble.runtime.members import open_interpreter

#: The largest deviation of a correct conversion, by the precision of members' values. Measured over
#: seven architectures with trained and random members, all layouts and formats: at most 0.01, and
#: 0.4 in the precision `compact`, which changes the values. Unrelated logits deviate by 1.4.
LIMITS = {"float32": 0.1, "compact": 0.8}
#: How far the variance of the first batch norm's input may be from that in training: images of our
#: own differ from a user's, and a wrong scale of pixels changes the variance by 4,000 or more.
SCALE_LIMIT, SCALE_LIMIT_OF_GIVEN_IMAGES = 100.0, 10.0

_IMAGES, _FEW_IMAGES, _LARGE = 8, 3, 10_000  # pixels of a large image
_MEMBERS = 3


@dataclass(frozen=True)
class Agreement:
    """How far Keras and a converted file agree on a few images.

    # Arguments
        images: how many.
        members: the numbers of the members compared: the first, the middle and the last one.
        argmax_agreement: for each of them the share (0..1) of images with the same class.
        deviation: for each of them, see this module.
        limit: the deviation above which nothing is written.
    """

    images: int
    members: list[int]
    argmax_agreement: list[float]
    deviation: list[float]
    limit: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


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
    members = _some_of(file.metadata.members)
    interpreter = open_interpreter(file, 1, LCE.name, LCE.kernels_of(file)[-1])
    pixels = images.astype(np.float32)
    ours = np.stack([interpreter.logits(image[np.newaxis], members) for image in pixels], axis=1)
    outputs = [ensemble.outputs[member] for member in members]
    network = keras.Model(ensemble.inputs, outputs)
    normalized = normalization(pixels)
    expected = _logits(network, normalized)
    agreement = Agreement(
        images=len(images),
        members=members,
        argmax_agreement=(ours.argmax(-1) == expected.argmax(-1)).mean(axis=1).tolist(),
        deviation=[_deviation(*logits) for logits in zip(ours, expected)],
        limit=LIMITS[file.metadata.precision],
    )
    if is_untrained(ensemble):
        return agreement
    if max(agreement.deviation) > agreement.limit:
        one_by_one = np.concatenate([_logits(network, x[np.newaxis]) for x in normalized], axis=1)
        if max(map(_deviation, ours, one_by_one)) <= agreement.limit:
            raise EnsembleError(
                "The network's logits of an image depend on the other images of the batch, so a "
                "file, which gets one at a time, can't compute them: use no input quantizer that "
                "averages over its input, such as magnitude_aware_sign."
            )
    for member, deviation in zip(members, agreement.deviation):
        if not deviation <= agreement.limit:
            raise EnsembleError(
                f"The converted file doesn't compute what Keras computes: the logits of member "
                f"{member} differ by {deviation:.2g} of their length on {len(images)} images, and "
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
        for member in _some_of(ensemble.members):
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


def some_images(input_shape: tuple[int, int, int]) -> np.ndarray:
    """A few random images, uint8 `[n, height, width, channels]`.

    Each is a sum of patterns of all sizes with equal power, as that of photographs is.
    """
    height, width, channels = input_shape
    count = _IMAGES if height * width <= _LARGE else _FEW_IMAGES
    draw = np.random.default_rng(0)
    images = np.zeros((count, *input_shape))
    size = 1
    while size <= max(height, width):
        rows, columns = -(-height // size), -(-width // size)
        pattern = draw.standard_normal((count, rows, columns, channels))
        images += pattern.repeat(size, 1).repeat(size, 2)[:, :height, :width]
        size *= 2
    images *= 64 / images.std()
    return np.clip(128 + images, 0, 255).astype(np.uint8)


def _logits(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Keras's logits, float32 `[members, n, classes]`."""
    outputs = network([tf.constant(images)] * len(network.inputs), training=False)
    return np.stack([np.asarray(logits, np.float32) for logits in tf.nest.flatten(outputs)])


def _deviation(ours: np.ndarray, expected: np.ndarray) -> float:
    distance = np.median(np.linalg.norm(ours - expected, axis=-1))
    length = np.median(np.linalg.norm(expected, axis=-1))
    return float(distance / length) if length else float(distance)


def _some_of(members: int) -> list[int]:
    return sorted({round(place) for place in np.linspace(0, members - 1, _MEMBERS)})


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
