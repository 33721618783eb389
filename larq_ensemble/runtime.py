"""Running a converted ensemble with as many members as the moment allows, without TensorFlow.

```python
ensemble = EnsembleInterpreter("ensemble.tflite", members=3)
ensemble.predict(images)  # uint8 [n, height, width, channels] -> float32 [n, classes]
ensemble.members = 1  # low battery: a third of the work from the next call on
```
"""

from __future__ import annotations

import os
import warnings

import numpy as np

from larq_ensemble.combine import combine
from larq_ensemble.errors import EnsembleError
from larq_ensemble.interpreters import INTERPRETERS
from larq_ensemble.metadata import EnsembleMetadata
from larq_ensemble.tflite_file import read_ensemble


class EnsembleInterpreter:
    """An ensemble file with Larq Compute Engine's kernels.

    # Arguments
        path: the `.tflite` that `larq-ensemble convert` wrote.
        members: how many members answer, the first ones of the file; `None` for all.
        threads: threads of a convolution.

    # Raises
        EnsembleError: if the file is missing, damaged or of other origin, `members` or `threads`
            is out of range, or Larq Compute Engine isn't installed.
    """

    def __init__(
        self, path: str | os.PathLike[str], members: int | None = None, threads: int = 1
    ) -> None:
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise EnsembleError(f"`threads` must be a positive integer. Received: {threads!r}.")
        file = read_ensemble(path)
        self._metadata = file.metadata
        self.members = self.max_members if members is None else members
        self._interpreter = INTERPRETERS[file.metadata.layout](file, threads)

    @property
    def metadata(self) -> EnsembleMetadata:
        """What the file says of itself."""
        return self._metadata

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """`(height, width, channels)` of an image."""
        return self._metadata.input_shape

    @property
    def classes(self) -> int:
        """How many classes a prediction has."""
        return self._metadata.classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name a class, or `None` where the data set had none."""
        return self._metadata.class_names

    @property
    def scheme(self) -> str:
        """How members are combined, a name of `larq_ensemble.combine.COMBINATIONS`."""
        return self._metadata.scheme

    @property
    def weights(self) -> tuple[float, ...] | None:
        """How much each member of the file counts; `None`: all the same."""
        return self._metadata.weights

    @property
    def max_members(self) -> int:
        """How many members the file holds."""
        return self._metadata.members

    @property
    def members(self) -> int:
        """How many members answer, the first ones of the file; may be set between calls."""
        return self._members

    @members.setter
    def members(self, members: int) -> None:
        self._members = self._checked_members(members)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Class probabilities, the members combined as the ensemble was trained.

        # Arguments
            images: `[n, height, width, channels]`, or one image `[height, width, channels]`, with
                values 0..255: uint8, or any other integers or floats in that range.

        # Returns
            float32 `[n, classes]`, rows sum to 1; n = 1 for one image.

        # Raises
            EnsembleError: if `images` has another shape, type or range.
        """
        return combine(self.predict_logits(images), self.scheme, self.weights)

    def predict_logits(self, images: np.ndarray, members: int | None = None) -> np.ndarray:
        """Each member's logits.

        # Arguments
            images: as in `predict`.
            members: how many members, the first ones; by default `self.members`.

        # Returns
            float32 `[members, n, classes]`.

        # Raises
            EnsembleError: as `predict`, and if `members` is out of range.
        """
        members = self.members if members is None else self._checked_members(members)
        images = self._checked_images(images)
        logits = np.empty((members, len(images), self.classes), np.float32)
        for i, image in enumerate(images):
            pixels = image[np.newaxis].astype(np.float32)
            logits[:, i] = self._interpreter.logits(pixels, range(members))
        return logits

    def _checked_members(self, members: int) -> int:
        if (
            isinstance(members, bool)
            or not isinstance(members, (int, np.integer))
            or not 1 <= members <= self.max_members
        ):
            raise EnsembleError(
                f"`members` must be an integer from 1 to {self.max_members}, the members that the "
                f"file holds. Received: {members!r}."
            )
        return int(members)

    def _checked_images(self, images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        if images.shape == self.input_shape:
            images = images[np.newaxis]
        if images.ndim != 4 or images.shape[1:] != self.input_shape:
            height, width, channels = self.input_shape
            raise EnsembleError(
                f"`images` must have the shape [n, {height}, {width}, {channels}]. "
                f"Received: {list(images.shape)}."
            )
        if images.dtype.kind not in "uif":
            raise EnsembleError(
                f"`images` must be uint8, or numbers from 0 to 255. Received: {images.dtype}."
            )
        if images.dtype != np.uint8 and images.size:
            low, high = images.min(), images.max()
            if not (low >= 0 and high <= 255):
                raise EnsembleError(
                    "`images` must be raw pixels from 0 to 255: the file normalizes them itself. "
                    f"Received: values from {low} to {high}."
                )
            if images.dtype.kind == "f" and 0 < high <= 1:
                warnings.warn(
                    f"No value of `images` is above {high}: the file expects raw pixels from 0 to "
                    "255 and normalizes them itself.",
                    stacklevel=4,
                )
        return images
