"""Data sets from arrays, and what arrays of images and labels must be."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from larq_ensemble.data.cache import gathered
from larq_ensemble.data.datasets import Dataset, Origin
from larq_ensemble.data.digests import image_digest
from larq_ensemble.data.encoded import in_parallel
from larq_ensemble.data.options import ImageOptions
from larq_ensemble.data.own import (
    Found,
    Read,
    as_text,
    checked_class_names,
    leaks,
    needs_size,
    own_dataset,
    resolved,
    with_test,
)
from larq_ensemble.data.splits import Split
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.images import fit_image

#: Images that are resized, or digested, at a time.
_TOGETHER = 256
#: Of class numbers: more have no network.
_HIGHEST = (1 << 20) - 1


def dataset_of_arrays(
    parts: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    class_names: Sequence[str] | None,
    name: str,
    options: ImageOptions,
) -> Dataset:
    """See `Dataset.from_arrays`."""
    splits = {part: checked_split(*pair, part) for part, pair in parts.items()}
    return dataset_of_splits(splits, class_names=class_names, name=name, options=options)


def dataset_of_splits(
    splits: Mapping[str, Split],
    *,
    class_names: Sequence[str] | None,
    name: str,
    options: ImageOptions,
) -> Dataset:
    """A data set that was given in Python, of checked splits."""
    origin = Origin(spec=None, images=options, fingerprint=fingerprint_of(splits))
    return own_dataset(found_arrays(splits, class_names, name, origin))


def found_arrays(
    parts: Mapping[str, Split],
    class_names: Sequence[str] | None,
    name: str,
    origin: Origin,
) -> Found:
    """What arrays hold.

    # Arguments
        parts: checked splits.
        class_names, name: of the data set.
        origin: its options say the size and channels of the images.

    # Raises
        EnsembleError: for splits that don't fit to each other or to the class names.
    """
    labels = {part: each.labels for part, each in parts.items()}
    names = checked_class_names(class_names, labels, to_train=origin.images.test_share < 1)
    shape = input_shape_of({part: each.images.shape[1:] for part, each in parts.items()}, origin)

    def read(data_dir: str | None) -> Read:
        splits = {
            part: Split(fitted(each.images, shape), each.labels) for part, each in parts.items()
        }
        leaks = _leaks(parts, origin.images)
        if "test" in parts:
            return Read(splits, leaks=leaks)
        train = splits["train"]
        rows = with_test({"train": np.arange(len(train))}, train.labels, origin.images)
        return Read(
            {**splits, **{part: train.take(each) for part, each in rows.items()}}, leaks=leaks
        )

    return Found(name, names, shape, resolved(origin, shape), read, has_test="test" in parts)


def _leaks(parts: Mapping[str, Split], options: ImageOptions) -> Iterator[str]:
    """See `leaks`; images are named by their index in the arrays."""
    names = [(part, index) for part, split in parts.items() for index in range(len(split))]
    labels = np.concatenate([split.labels for split in parts.values()])
    owners = np.array([part for part, _ in names])
    rows = {part: np.flatnonzero(owners == part) for part in parts}
    digests = [
        image_digest(np.ascontiguousarray(split.images[index]).data)
        for split in parts.values()
        for index in range(len(split))
    ]
    yield from leaks(
        with_test(rows, labels, options),
        np.array(digests, np.uint64),
        lambda row: "{} image {}".format(*names[row]),
    )


def input_shape_of(shapes: Mapping[str, tuple[int, ...]], origin: Origin) -> tuple[int, int, int]:
    """The (height, width, channels) of the images of all splits, or what the options ask for."""
    options = origin.images
    if options.image_size is None and len({shape[:2] for shape in shapes.values()}) > 1:
        sizes = ", ".join(f"{part} {as_text(shape[:2])}" for part, shape in shapes.items())
        raise needs_size(f"The images of the splits differ in size ({sizes}, height x width)")
    channels = options.channels or max(shape[2] for shape in shapes.values())
    height, width = options.image_size or shapes["train"][:2]
    return height, width, channels


def fitted(images: Any, shape: tuple[int, int, int]) -> Any:
    """Images of another size or other channels as `fit_image` makes them; others as they are.

    # Raises
        EnsembleError: for images to be changed that have neither 1 nor 3 channels.
    """
    if images.shape[1:] == shape:
        return images
    if not len(images):
        return np.empty((0, *shape), np.uint8)
    if images.shape[-1] not in (1, 3):
        raise EnsembleError(
            f"Images of {images.shape[-1]} channels can't be resized or become grey: leave "
            "`image_size` and `channels` out."
        )

    def fit(start: int) -> np.ndarray:
        some = images[start : start + _TOGETHER]
        return np.stack([fit_image(_image(image), shape) for image in some])

    return gathered(in_parallel(fit, range(0, len(images), _TOGETHER)))


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def checked_split(images: Any, labels: Any, part: str) -> Split:
    """Checks a pair of arrays.

    # Raises
        EnsembleError: for images that are not uint8 [n, h, w, c] or [n, h, w], labels that are no
            class numbers [n] or [n, 1], and different numbers of them.
    """
    images = images if isinstance(images, np.ndarray) else np.asarray(images)
    if images.dtype != np.uint8:
        raise EnsembleError(
            f"The {part} images must be uint8, pixels from 0 to 255. Received: {images.dtype}. "
            f"{_to_uint8(images)}"
        )
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or not all(images.shape[1:]):
        raise EnsembleError(
            f"The {part} images must have the shape [n, height, width, channels] or "
            f"[n, height, width]. Received: {list(images.shape)}."
        )
    if images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        raise EnsembleError(
            f"The {part} images seem to have their channels first, {list(images.shape)}: give "
            "[n, height, width, channels], by `np.moveaxis(images, 1, -1)`."
        )
    labels = checked_labels(labels, part)
    if len(images) != len(labels):
        raise EnsembleError(f"There are {len(images)} {part} images, but {len(labels)} labels.")
    return Split(images, labels)


def checked_labels(labels: Any, part: str) -> np.ndarray:
    """Class numbers as int32 [n].

    # Raises
        EnsembleError: for one-hot labels, names, fractions and numbers below 0.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:  # as Keras has them
        labels = labels[:, 0]
    are_numbers = labels.ndim == 1 and labels.dtype.kind in "iu"
    if are_numbers and labels.max(initial=0) > _HIGHEST:
        raise EnsembleError(
            f"The {part} labels must be class numbers up to {_HIGHEST}. Received: {labels.max()}. "
            "Number the classes that there are by `np.unique(labels, return_inverse=True)[1]`."
        )
    if not are_numbers or (labels < 0).any():
        lowest = f" from {labels.min()} on" if labels.size and labels.dtype.kind in "if" else ""
        way = (
            "Names become class numbers by `names, labels = np.unique(labels, return_inverse=True)`"
            ", and `class_names=names` keeps them."
            if labels.dtype.kind in "USO"
            else "One-hot labels become class numbers by `labels.argmax(axis=-1)`."
        )
        raise EnsembleError(
            f"The {part} labels must be class numbers [n], whole numbers from 0 on. Received: "
            f"{labels.dtype} {list(labels.shape)}{lowest}. {way}"
        )
    return labels.astype(np.int32)


def _to_uint8(images: np.ndarray) -> str:
    if images.dtype.kind == "f" and images.size and images.min() >= 0 and images.max() <= 1:
        return "Those from 0 to 1 become uint8 by `np.rint(255 * images).astype(np.uint8)`."
    if images.dtype == np.uint16:
        return "Those of 16 bits become uint8 by `(images // 257).astype(np.uint8)`."
    return "Those from 0 to 255 become uint8 by `np.rint(images).astype(np.uint8)`."


def fingerprint_of(parts: Mapping[str, Split]) -> str:
    """SHA-256 of all pixels and labels."""
    digest = hashlib.sha256()
    for part, split in parts.items():
        digest.update(f"{part} {split.images.shape}".encode())
        for start in range(0, len(split), _TOGETHER):
            digest.update(np.ascontiguousarray(split.images[start : start + _TOGETHER]).data)
        digest.update(np.ascontiguousarray(split.labels).data)
    return digest.hexdigest()
