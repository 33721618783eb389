"""Data sets from `tf.data` pipelines, which are read once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from larq_ensemble.data.arrays import checked_split, dataset_of_splits, fitted
from larq_ensemble.data.cache import gathered
from larq_ensemble.data.datasets import Dataset
from larq_ensemble.data.options import ImageOptions
from larq_ensemble.data.own import as_text, needs_size
from larq_ensemble.data.splits import Split
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import tf
from larq_ensemble.progress import tracked


def dataset_of_pipelines(
    parts: Mapping[str, tf.data.Dataset],
    *,
    class_names: Sequence[str] | None,
    name: str,
    options: ImageOptions,
) -> Dataset:
    """See `Dataset.from_tf_data`."""
    for part, pipeline in parts.items():
        _check(pipeline, part)
    splits = {part: _split(pipeline, part, options) for part, pipeline in parts.items()}
    return dataset_of_splits(splits, class_names=class_names, name=name, options=options)


def _check(pipeline: Any, part: str) -> None:
    if not isinstance(pipeline, tf.data.Dataset):
        raise EnsembleError(
            f"The {part} data must be a tf.data.Dataset. Received: {type(pipeline).__name__}."
        )
    spec = pipeline.element_spec
    if not (isinstance(spec, tuple) and len(spec) == 2):
        raise EnsembleError(
            f"The elements of the {part} data must be (image, label). Received: {spec}. Make them "
            "so by `map`."
        )
    image, _ = spec
    if isinstance(image, tf.TensorSpec) and image.dtype != tf.uint8:
        raise EnsembleError(
            f"The {part} images must be uint8, pixels from 0 to 255. Received: {image.dtype.name}. "
            "Those from 0 to 255, as `image_dataset_from_directory` of Keras gives them, become "
            "uint8 by `map(lambda x, y: (tf.cast(tf.round(x), tf.uint8), y))`, those from 0 to 1 "
            "with `255 * x`."
        )
    if pipeline.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise EnsembleError(
            f"The {part} data are infinite: give them without `repeat`, or an epoch by `take`."
        )


def _split(pipeline: tf.data.Dataset, part: str, options: ImageOptions) -> Split:
    """Reads all elements. Their images get the options' size, and else must have the same."""
    labels: list[np.ndarray] = []

    def images() -> Iterator[np.ndarray]:
        shape: tuple[int, int, int] | None = None
        for image, label in _elements(pipeline, part):
            if np.ndim(label) == 0:  # not batched
                image, label = np.asarray(image)[np.newaxis], np.asarray(label)[np.newaxis]
            split = checked_split(image, label, part)
            height, width, channels = split.images.shape[1:]
            wanted = (*(options.image_size or (height, width)), options.channels or channels)
            shape = shape or wanted
            if wanted != shape:
                raise needs_size(
                    f"The {part} images differ in size or color, such as {as_text(shape)} and "
                    f"{as_text(wanted)} (height x width x channels)"
                )
            labels.append(split.labels)
            yield fitted(split.images, shape)
        if not labels:
            raise EnsembleError(
                f"The {part} data are empty: a pipeline can be read only if it "
                "starts anew each time."
            )

    return Split(gathered(images()), np.concatenate(labels))


def _elements(pipeline: tf.data.Dataset, part: str) -> Iterator[tuple[Any, Any]]:
    elements, total = pipeline.as_numpy_iterator(), int(pipeline.cardinality())
    if total < 0:  # unknown
        return elements
    return tracked(elements, f"reading {part} data", unit="element", total=total)
