"""Data sets of one's own: from what a source found to a `Dataset`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from larq_ensemble.console.wording import counted
from larq_ensemble.data.datasets import Augmentation, Dataset, Origin
from larq_ensemble.data.normalization import Normalization
from larq_ensemble.data.options import ImageOptions
from larq_ensemble.data.splits import ImageArray, Split, stratified
from larq_ensemble.errors import EnsembleError

#: Splits that data can have of their own; `train` is always there.
PARTS = ("train", "test", "validation")
_CHUNK_BYTES = 1 << 24
_SHOWN = 5
#: Pixels: the largest side that images have without being asked for.
_LARGEST = 256


@dataclass(frozen=True)
class Read:
    """What was read.

    # Arguments
        parts: the splits, by their names in `PARTS`: training, test, and validation if the data
            have one of their own.
        remarks: sentences for the user, such as on damaged files.
        leaks: those on images that are in two splits, for who trains. They may take some work, so
            they are made when they are asked for.
    """

    parts: Mapping[str, Split]
    remarks: Iterable[str] = ()
    leaks: Iterable[str] = ()

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits in the order of `PARTS`."""
        return tuple(self.parts[part] for part in PARTS if part in self.parts)


@dataclass(frozen=True)
class Found:
    """What a source holds, before its images are read.

    `origin.images` have the size and channels that the images get, so that a run records them.

    # Arguments
        name, class_names, input_shape: as of `Dataset`.
        origin: as of `Dataset`.
        read: (data_dir) -> what it holds.
        has_test: whether it has a test split of its own.
    """

    name: str
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    origin: Origin
    read: Callable[[str | None], Read]
    has_test: bool


def sized(options: ImageOptions, input_shape: tuple[int, int, int]) -> ImageOptions:
    """The options, with size and channels as given."""
    height, width, channels = input_shape
    of_files: Any = channels if channels in (1, 3) else None
    return replace(options, image_size=(height, width), channels=of_files)


def resolved(origin: Origin, input_shape: tuple[int, int, int]) -> Origin:
    """The origin, with the size and channels that its images have."""
    return replace(origin, images=sized(origin.images, input_shape))


def own_dataset(found: Found) -> Dataset:
    """The data set of what a source found; reads its images for the normalization.

    # Raises
        EnsembleError: for fewer than two classes, if images can't be read, there are none to train
            on, or all are the same, and for options of a test split that is there already.
    """
    _refuse_without_effect(found)
    if len(found.class_names) < 2:
        raise EnsembleError(
            "A classifier needs two classes or more. Found in "
            f"{found.name!r}: {shown(found.class_names) or 'none'}."
        )
    read = found.read(None)
    for remark in (*read.remarks, *read.leaks):
        warnings.warn(remark, stacklevel=3)
    splits = read.splits
    return Dataset(
        name=found.name,
        classes=len(found.class_names),
        input_shape=found.input_shape,
        normalization=normalization_of(splits[0].images),
        # Nothing is mirrored: nobody knows whether a mirrored image is still of its class.
        augmentation=Augmentation.of_kind("crop", found.input_shape),
        read=lambda data_dir: splits,
        class_names=found.class_names,
        source="computed from its training split",
        origin=found.origin,
    )


def _refuse_without_effect(found: Found) -> None:
    options, default = found.origin.images, ImageOptions()
    for name in ("test_share", "split_seed"):
        value = getattr(options, name)
        if found.has_test and value != getattr(default, name):
            raise EnsembleError(
                f"`{name}` {value!r} has no effect: {found.name!r} has a test split. Leave it out."
            )


def with_test(
    rows: Mapping[str, np.ndarray], labels: np.ndarray, options: ImageOptions
) -> dict[str, np.ndarray]:
    """The splits; without a test split one is cut from the training split, in order.

    # Arguments
        rows: indices of the examples of each split.
        labels: of all examples.
        options: the share and seed of the test split.
    """
    if "test" in rows:
        return dict(rows)
    random = np.random.default_rng(options.split_seed)
    train = rows["train"]
    test, others = map(np.sort, stratified(labels[train], options.test_share, random))
    return {**rows, "train": train[others], "test": train[test]}


def leaks(
    rows: Mapping[str, np.ndarray], digests: np.ndarray, name: Callable[[int], str]
) -> Iterator[str]:
    """A remark for each split that has images of the training split.

    # Arguments
        rows: indices of the images of each split.
        digests: uint64 of all images, the same for equal ones.
        name: of the image at an index.
    """
    for part in PARTS[1:]:
        if part not in rows:
            continue
        _, first, second = np.intersect1d(
            digests[rows["train"]], digests[rows[part]], return_indices=True
        )
        if len(first):
            pair = name(rows["train"][first[0]]), name(rows[part][second[0]])
            yield (
                f"The {part} split has {counted(len(first), 'image')} of the training split, which "
                f"makes accuracies too high: {pair[0]!r} and {pair[1]!r}, for example, are equal. "
                "Remove one of each."
            )


def check_size(images: str, size: tuple[int, int]) -> None:
    """Checks that images have a size for a network, if none is asked for.

    # Arguments
        images: which ones, for the error.
        size: (height, width).

    # Raises
        EnsembleError: if they are large.
    """
    if max(size) > _LARGEST:
        raise needs_size(f"{images} have the size {as_text(size)} (height x width), which is large")


def needs_size(problem: str) -> EnsembleError:
    """The error that asks for a size."""
    return EnsembleError(
        f"{problem}: give `image_size=(64, 64)` or another. All images are cropped and resized to "
        "it."
    )


def as_text(shape: Sequence[int]) -> str:
    """Sizes for messages, as the command line takes and prints them, such as 48x64."""
    return "x".join(map(str, shape))


def shown(names: Sequence[str]) -> str:
    """Some names, for messages."""
    return ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")


def normalization_of(images: ImageArray) -> Normalization:
    r"""Mean and standard deviation of the pixels / 255, by channel.

    Sums of x and x² are whole numbers, so chunks of any size give the same. A channel that is
    constant gets the standard deviation 1: it becomes 0 everywhere.

    # Raises
        EnsembleError: without images, or if all pixels are the same.
    """
    if not len(images):
        raise EnsembleError(
            "No training images are left to compute mean and standard deviation from: lower "
            "`test_share`."
        )
    # Of so many images the squares of a pixel add up below 2**32.
    chunk = max(1, min(_CHUNK_BYTES // int(np.prod(images.shape[1:])), 1 << 16))
    sums = np.zeros((2, images.shape[-1]), np.int64)
    for start in range(0, len(images), chunk):
        pixels = images[np.arange(start, min(start + chunk, len(images)))]
        for power, values in enumerate((pixels, np.square(pixels, dtype=np.uint16))):
            # The images first: NumPy adds along long rows much faster.
            of_pixels = values.sum(axis=0, dtype=np.uint32)
            sums[power] += of_pixels.sum(axis=(0, 1), dtype=np.int64)
    count = int(np.prod(images.shape[:-1]))
    first, second = sums.astype(object)  # whole numbers of Python, of any size
    mean = (first / (255 * count)).astype(float)
    std = np.sqrt(((count * second - first**2) / (255 * count) ** 2).astype(float))
    if not std.any():
        raise EnsembleError("All training images are of one color: there is nothing to learn.")
    std[std == 0] = 1
    return Normalization(mean=mean.tolist(), std=std.tolist())


def checked_class_names(
    class_names: Sequence[str] | None,
    labels: Mapping[str, np.ndarray],
    *,
    to_train: bool = True,
) -> tuple[str, ...]:
    """Checks class names, or makes them of the class numbers.

    # Arguments
        class_names: in the order of the labels; `None`: as many as there are class numbers.
        labels: int32 [n] of each split.
        to_train: whether each class needs a training image if it has no name.

    # Raises
        EnsembleError: for labels out of range or classes without a training image.
    """
    every = np.concatenate(list(labels.values()))
    highest, lowest = int(every.max(initial=-1)), int(every.min(initial=0))
    if class_names is None:
        counts = np.bincount(labels["train"], minlength=highest + 1)
        if to_train and not counts.all():
            raise EnsembleError(
                f"`labels` must be class numbers from 0 on. No training image has the label "
                f"{int(counts.argmin())}, and the highest one is {highest}: give `class_names`, "
                "or number the classes that there are."
            )
        class_names = [str(number) for number in range(highest + 1)]
    names = tuple(map(str, class_names))
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise EnsembleError(f"`class_names` must differ. More than once there: {twice}.")
    if highest >= len(names) or lowest < 0:
        raise EnsembleError(
            f"The labels of {len(names)} classes must be from 0 to {len(names) - 1}. Received: "
            f"{lowest if lowest < 0 else highest}. Number them so, or name as many classes as "
            "there are; a trained network takes data of its own classes only."
        )
    return names
