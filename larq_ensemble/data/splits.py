"""Images with their labels, in splits. The images may be on disk and larger than memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class ImageArray(Protocol):
    """What holds the images of a split: uint8 [n, h, w, c], read when it is indexed.

    A NumPy array is one, also a memory-mapped one.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Any, /) -> Any:
        """The images at an int array of indices: an array uint8 [k, h, w, c] in memory."""


class LazyImages:
    """Base of image arrays that are no NumPy arrays. `np.asarray` reads all images.

    # Arguments
        shape: (n, h, w, c).
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The images at indices from 0 to n - 1, int64 [k]: uint8 [k, h, w, c]."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any, /) -> np.ndarray:
        # An index of NumPy's kind: a number, a slice, numbers, a mask.
        indices = np.arange(len(self))[key]
        images = self.read(np.atleast_1d(indices))
        return images if np.ndim(indices) else images[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        images = self.read(np.arange(len(self)))
        return images if dtype is None else images.astype(dtype)


class Rows(LazyImages):
    """Some of the images of another array, in an order of their own.

    # Arguments
        images: the other array.
        indices: int [n], of the images in it.
    """

    def __init__(self, images: ImageArray, indices: np.ndarray) -> None:
        super().__init__((len(indices), *images.shape[1:]))
        self._images, self._indices = images, indices

    def read(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(self._images[self._indices[indices]])

    def rows(self, indices: np.ndarray) -> Rows:
        """Some of these."""
        return Rows(self._images, self._indices[indices])


def is_on_disk(images: Any) -> bool:
    """Whether images are read when they are indexed, and are not in memory."""
    return isinstance(images, (np.memmap, LazyImages))


def rows(images: ImageArray, indices: np.ndarray) -> ImageArray:
    """Some of the images: a copy of those in memory, else `Rows`, which read nothing yet."""
    if not is_on_disk(images):
        return images[indices]
    return images.rows(indices) if isinstance(images, Rows) else Rows(images, np.asarray(indices))


@dataclass(frozen=True)
class Split:
    """Images uint8 [n, h, w, c] and labels int32 [n]."""

    images: ImageArray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Split:
        """The examples at these indices, int [k]. Images on disk are read only when used."""
        return Split(rows(self.images, indices), self.labels[indices])

    def first(self, limit: int | None) -> Split:
        """The first `limit` examples, all of them for `None`."""
        if limit is None:
            return self
        if isinstance(self.images, np.ndarray):  # without a copy
            return Split(self.images[:limit], self.labels[:limit])
        return self.take(np.arange(len(self))[:limit])


@dataclass(frozen=True)
class Splits:
    """Training, validation and test data."""

    train: Split
    validation: Split
    test: Split

    def counts(self, classes: int) -> dict[str, list[int]]:
        """Images of each class, by split: `{"train": [...], "validation": [...], "test": [...]}`.

        # Arguments
            classes: number of classes.
        """
        return {
            name: np.bincount(split.labels, minlength=classes).tolist()
            for name, split in vars(self).items()
        }


def imbalance(counts: list[int]) -> float:
    """How many times the smallest class the largest one is; infinite if a class has no images."""
    return max(counts) / min(counts) if min(counts) else float("inf")


def stratified(
    labels: np.ndarray, share: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    r"""Draws a share of the examples with the classes in proportion.

    Of \\( n_c \\) examples of class c, \\( \lfloor s \, n_c \rfloor \\) are drawn, and one more in
    the classes with the largest remainders, so that round(s n) are drawn in all. A class keeps at
    least one example if s < 1.

    # Arguments
        labels: int [n].
        share: s, from 0 to 1.
        random: draws.

    # Returns
        Indices of those drawn and of the others, each in random order.
    """
    order = random.permutation(len(labels))
    classes, of_class, counts = np.unique(labels[order], return_inverse=True, return_counts=True)
    wanted = share * counts
    most = counts if share == 1 else counts - 1
    drawn = np.minimum(np.floor(wanted).astype(int), most)
    missing = round(share * len(labels)) - drawn.sum()
    by_remainder = np.argsort(-(wanted - drawn), kind="stable")
    for index in by_remainder[drawn[by_remainder] < most[by_remainder]][: max(missing, 0)]:
        drawn[index] += 1
    # The rank of each example among those of its class, in random order.
    rank = np.empty(len(order), int)
    for index in range(len(classes)):
        members = np.flatnonzero(of_class == index)
        rank[members] = np.arange(len(members))
    is_drawn = rank < drawn[of_class]
    return order[is_drawn], order[~is_drawn]
