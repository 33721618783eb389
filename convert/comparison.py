"""Logits of two networks that should be the same, on a few images.

Rounding flips a sign inside a network now and then, and the logits of an image change a little. A
wrong conversion gives other logits on every image. So the measure is the median over images of the
distance between the two vectors of logits, relative to their length:

    deviation = median |z - z'| / median |z'|
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.backends.choice import backend_named, installed
from larq_ensemble.runtime.file import EnsembleFile
from larq_ensemble.runtime.members import open_interpreter

_IMAGES, _FEW_IMAGES, _LARGE = 8, 3, 10_000  # pixels of a large image
_MEMBERS = 3


@dataclass(frozen=True)
class Agreement:
    """How far a file and what it was converted from agree on a few images.

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

    @classmethod
    def of(
        cls, ours: np.ndarray, expected: np.ndarray, members: list[int], *, limit: float
    ) -> Agreement:
        """The agreement of two networks' logits, `[len(members), n, classes]`."""
        return cls(
            images=ours.shape[1],
            members=members,
            argmax_agreement=(ours.argmax(-1) == expected.argmax(-1)).mean(axis=1).tolist(),
            deviation=[deviation(*logits) for logits in zip(ours, expected)],
            limit=limit,
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def member_logits(file: EnsembleFile, images: np.ndarray, members: Sequence[int]) -> np.ndarray:
    """A file's logits, by the back end that the file is for, or the other if it isn't installed.

    # Arguments
        file: the ensemble.
        images: `[n, height, width, channels]`, raw pixels.
        members: their numbers.

    # Returns
        float32 `[len(members), n, classes]`.
    """
    backends = sorted(installed(), key=lambda backend: backend.name != file.metadata.target)
    backend = backends[0] if backends else backend_named(file.metadata.target)
    interpreter = open_interpreter(file, 1, backend.name, backend.kernels_of(file)[-1])
    pixels = images.astype(np.float32)
    return np.stack([interpreter.logits(image[np.newaxis], members) for image in pixels], axis=1)


def on_other_backends(
    ours: EnsembleInterpreter, tflite: str | os.PathLike[str], threads: int
) -> dict[str, EnsembleInterpreter]:
    """A file on the other back ends that are installed, by name.

    It warns of one that refuses the file.

    # Arguments
        ours: the file on its back end.
        tflite: the file.
        threads: of each interpreter.
    """
    found = {}
    for backend in installed():
        if backend.name != ours.backend:
            try:
                found[backend.name] = EnsembleInterpreter(
                    tflite, threads=threads, backend=backend.name
                )
            except EnsembleError as error:
                warnings.warn(f"Only {ours.backend} runs the file: {error}", stacklevel=3)
    return found


def deviation(ours: np.ndarray, expected: np.ndarray) -> float:
    """The deviation of a member's logits, `[n, classes]`, as this module defines it."""
    with np.errstate(over="ignore", invalid="ignore"):  # then it is nan, or infinite
        distance = np.median(np.linalg.norm(ours - expected, axis=-1))
        length = np.median(np.linalg.norm(expected, axis=-1))
        return float(distance / length) if length else float(distance)


def compared_members(members: int) -> list[int]:
    """The numbers of the first, the middle and the last of some members."""
    return sorted({round(place) for place in np.linspace(0, members - 1, _MEMBERS)})


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
