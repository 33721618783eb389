"""Normalization of pixels to the input of a network."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError


@dataclass(frozen=True)
class Normalization:
    r"""Shifts and scales each channel of an image.

    \\[ y = \frac{x / 255 - \text{mean}}{\text{std}} = x \cdot \text{scale} + \text{offset} \\]

    for pixels x from 0 to 255. The second form is computed, in float32, so that training,
    evaluation and the converted file round alike.

    # Arguments
        mean: one number per channel, from 0 to 1: of pixels on the scale 0..1.
        std: one number per channel, above 0 and at most 1, on the same scale.

    # Raises
        EnsembleError: for numbers out of range, or different numbers of channels.

    # Example
    ```python
    normalization = Normalization(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    ensemble = build_ensemble(backbone, members=4, normalization=normalization)
    ensemble.fit(normalization(images), labels)
    ```
    """

    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            given = getattr(self, name)
            try:
                values = np.asarray(given, np.float64)
            except (TypeError, ValueError):
                raise _wrong(name, "numbers", given) from None
            if values.ndim != 1 or not values.size:
                raise _wrong(name, "numbers", given)
            if not np.isfinite(values).all():
                raise _wrong(name, f"{len(values)} numbers", values)
            object.__setattr__(self, name, tuple(values.tolist()))
        if min(self.std) <= 0:
            raise EnsembleError(f"`std` must be positive. Received: {list(self.std)}.")
        for name, lowest in (("mean", min(self.mean)), ("std", min(self.std))):
            values = getattr(self, name)
            if lowest < 0 or max(values) > 1:
                raise EnsembleError(
                    f"`{name}` must be that of pixels on the scale 0 to 1: divide that of pixels "
                    f"from 0 to 255 by 255. Received: {list(values)}."
                )
        if len(self.mean) != len(self.std):
            shorter = min(("mean", "std"), key=lambda name: len(getattr(self, name)))
            self._check(shorter, max(len(self.mean), len(self.std)))

    @classmethod
    def raw(cls, channels: int) -> Normalization:
        """That of a network which takes pixels from 0 to 255 as they are: y = x.

        # Arguments
            channels: number of channels.
        """
        return cls(mean=[0.0] * channels, std=[1 / 255] * channels)

    @property
    def is_raw(self) -> bool:
        """Whether it leaves pixels as they are."""
        return bool((self.scale == 1).all() and (self.offset == 0).all())

    def is_close(self, other: Normalization) -> bool:
        """Whether both give the same, up to rounding."""
        return len(self.mean) == len(other.mean) and all(
            np.allclose(mine, others, rtol=1e-4, atol=1e-6)
            for mine, others in ((self.scale, other.scale), (self.offset, other.offset))
        )

    def to_json(self) -> dict[str, list[float]]:
        """`{"mean", "std"}`, the arguments."""
        return {"mean": list(self.mean), "std": list(self.std)}

    def check_channels(self, channels: int) -> None:
        """Checks that it fits images with this number of channels.

        # Raises
            EnsembleError: if it does not.
        """
        self._check("mean", channels)

    def _check(self, name: str, channels: int) -> None:
        if len(values := getattr(self, name)) != channels:
            raise _wrong(name, f"{channels} numbers", values)

    @cached_property
    def scale(self) -> np.ndarray:
        """1 / (255 std), float32 `[channels]`."""
        return (1 / (255 * np.asarray(self.std))).astype(np.float32)

    @cached_property
    def offset(self) -> np.ndarray:
        """-mean / std, float32 `[channels]`."""
        return (-np.asarray(self.mean) / np.asarray(self.std)).astype(np.float32)

    def __call__(self, images: Any) -> Any:
        """Normalizes images.

        # Arguments
            images: pixels from 0 to 255 of any number type, `[..., channels]`: a NumPy array or
                what becomes one, or a tensor.

        # Returns
            float32 of the same shape, an array or a tensor.

        # Raises
            EnsembleError: for another number of channels, or what is no array of numbers.
        """
        images = _as_float32(images)
        shape, channels = images.shape, len(self.mean)
        # Some tensors in graphs have no rank, or no number of channels.
        if getattr(shape, "rank", 0) is not None and [*shape][-1:] not in ([channels], [None]):
            raise EnsembleError(
                f"`images` must have the shape [..., {channels}], the channels last. "
                f"Received: {[*shape]}."
            )
        if isinstance(images, np.ndarray) and 0 < images.max(initial=0) <= 1:
            warnings.warn(
                f"No value of `images` is above {images.max()}: pixels from 0 to 255 are expected, "
                "and divided by 255 here.",
                stacklevel=2,
            )
        return images if self.is_raw else images * self.scale + self.offset


def _as_float32(images: Any) -> Any:
    # TensorFlow would round the scale to the type of the pixels: of uint8, to 0.
    if hasattr(images, "dtype") and not isinstance(images, (np.ndarray, np.generic)):
        from larq_ensemble.keras import tf

        return tf.cast(images, tf.float32)
    try:
        return np.asarray(images, np.float32)
    except (TypeError, ValueError):
        raise EnsembleError(
            "`images` must be an array or a tensor of numbers; over a `tf.data.Dataset`, map the "
            f"normalization. Received: {type(images).__name__}."
        ) from None


#: What `normalization_named` takes, for messages and help.
NAMED = "raw, 0..1, -1..1, dataset or MEAN/STD"


def normalization_named(
    text: str, channels: int, of_dataset: Normalization | None = None
) -> Normalization:
    """The normalization that a user names.

    # Arguments
        text: `"raw"`: pixels from 0 to 255 as they are; `"0..1"`: divided by 255; `"-1..1"`: by
            127.5, less 1; `"dataset"`: that of the data set; or mean and std on the scale 0..1,
            a number per channel or one for all: `"0.49,0.48,0.45/0.25"`.
        channels: number of channels.
        of_dataset: that of the data set; `None`: there is none.

    # Raises
        EnsembleError: for other text.
    """
    if text == "raw":
        return Normalization.raw(channels)
    if text == "dataset":
        if of_dataset is None:
            raise EnsembleError("`normalization` 'dataset' needs a data set: give `dataset`.")
        return of_dataset
    mean, slash, std = {"0..1": "0/1", "-1..1": "0.5/0.5"}.get(text, text).partition("/")
    try:
        numbers = [[float(number) for number in part.split(",")] for part in (mean, std)]
    except ValueError:
        numbers = []
    if not slash or not numbers:
        raise EnsembleError(f"`normalization` must be {NAMED}, such as 0.5/0.25, got {text!r}.")
    means, stds = (part * channels if len(part) == 1 else part for part in numbers)
    return Normalization(means, stds)


def _wrong(name: str, expected: str, values: Any) -> EnsembleError:
    received = values.tolist() if isinstance(values, np.ndarray) else values
    received = [*received] if isinstance(received, tuple) else received
    return EnsembleError(
        f"`{name}` must hold {expected}, finite and one per channel. Received: {received!r}."
    )


def check_normalization(normalization: object, image: Any) -> None:
    """Checks that images can be normalized so for a network; `None`, not known, is right too.

    # Arguments
        normalization: what to check.
        image: the network's input, a Keras tensor.

    # Raises
        EnsembleError: for anything but a `Normalization` of as many channels, or for one that
            changes pixels although the network takes integers.
    """
    if normalization is None:
        return
    channels = image.shape[-1]
    if not isinstance(normalization, Normalization):
        raise EnsembleError(
            "`normalization` must be a larq_ensemble.Normalization, such as "
            f"Normalization(mean, std) or Normalization.raw({channels}), got {normalization!r}."
        )
    normalization.check_channels(channels)
    raw = Normalization.raw(channels)
    if image.dtype.is_integer and not normalization.is_close(raw):
        raise EnsembleError(
            f"`normalization` {normalization!r} makes fractions of pixels, but the network's input "
            f"is {image.dtype.name}: give Normalization.raw({channels}), or leave it out."
        )
