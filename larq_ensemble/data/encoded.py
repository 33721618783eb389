"""Encoded images (JPEG, PNG and others), decoded in parallel: once into the cache, or at access."""

from __future__ import annotations

import collections
import io
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from larq_ensemble.data.cache import Chunk, NoRoomError, cached, discard
from larq_ensemble.data.digests import image_digest
from larq_ensemble.data.options import ImageOptions
from larq_ensemble.data.own import PARTS, Read, checked_class_names, leaks, with_test
from larq_ensemble.data.splits import ImageArray, LazyImages, Rows, Split
from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.progress import working
from larq_ensemble.runtime.images import read_image
from larq_ensemble.runtime.threads import processors

Task = TypeVar("Task")
Result = TypeVar("Result")

_FILES_A_TASK = 16
_SHOWN = 3


class Encoded(NamedTuple):
    """An encoded image.

    # Arguments
        data: a file, or the bytes of one.
        part: its split, a name in `PARTS`.
        label: its class.
    """

    data: Path | bytes
    part: str
    label: int


@dataclass(frozen=True)
class EncodedImages:
    """The encoded images of a data set.

    # Arguments
        what: of the images and where they are, for messages, such as `"image files in 'photos'"`.
        entry, key: name and key in the cache.
        count: how many there are.
        class_names: of the labels.
        images: () -> the images, in an order that is always the same.
        name: of the image at an index, for messages.
        files: of the images, if each has its own: they can be read without the cache.
    """

    what: str
    entry: str
    key: str
    count: int
    class_names: Sequence[str]
    images: Callable[[], Iterable[Encoded]]
    name: Callable[[int], str]
    files: Sequence[Path] | None = None

    def read(self, shape: tuple[int, int, int], options: ImageOptions) -> Read:
        """The splits, with images of the given shape; without a test split one is cut.

        # Raises
            EnsembleError: for damaged images, unless the options skip them, and for a class that
                has no training image then, unless all images are to be the test split.
        """
        table = self._table(shape)
        is_whole = table.damage == ""
        remarks = []
        damage = ""
        if not is_whole.all():
            damage = self._damage(table)
            if options.damaged == "refuse":
                raise EnsembleError(f"{damage} Repair or remove them, or skip them (`damaged`).")
            remarks.append(f"{damage} They are left out.")
        # Damaged images are cut, too: which ones can be read moves no others between the splits.
        rows = {part: indices[is_whole[indices]] for part, indices in table.rows(options).items()}
        checked_class_names(
            self.class_names, {part: table.labels[each] for part, each in rows.items()}
        )
        if options.test_share < 1:
            self._check_has_all_classes(table.labels[rows["train"]], damage)
        image_at = np.cumsum(is_whole) - 1
        splits = {
            part: Split(Rows(table.images, image_at[indices]), table.labels[indices])
            for part, indices in rows.items()
        }
        return Read(splits, remarks, leaks(rows, table.digests, self.name))

    def _table(self, shape: tuple[int, int, int]) -> _Table:
        def chunks() -> Iterator[Chunk]:
            with working("reading images", self.count, unit="image") as work:
                for images, columns in _decoded(self.images(), shape):
                    yield images, columns
                    work.advance(len(columns["labels"]))

        size = self.count * int(np.prod(shape))
        try:
            entry = cached(self.entry, self.key, size, chunks)
            if self._can_read_more(entry.columns["damage"], shape):
                discard(self.entry)
                entry = cached(self.entry, self.key, size, chunks)
            return _Table(entry.images, **entry.columns)
        except NoRoomError as error:
            if self.files is None:
                raise
            warnings.warn(f"{error} Now images are decoded at each access.", stacklevel=2)
        every = [columns for _, columns in chunks()]
        columns = {name: np.concatenate([each[name] for each in every]) for name in every[0]}
        whole = [path for path, damage in zip(self.files, columns["damage"]) if not damage]
        return _Table(ImageFiles(whole, shape), **columns)

    def _can_read_more(self, damage: np.ndarray, shape: tuple[int, int, int]) -> bool:
        """Whether a damaged file can be read now.

        A wrong permission or an error of the disk can end, and the file's size and time stay.
        """
        if self.files is None:
            return False
        damaged = (image for image, reason in zip(self.images(), damage) if reason)
        return any(len(images) for images, _ in _decoded(damaged, shape))

    def _damage(self, table: _Table) -> str:
        indices = np.flatnonzero(table.damage != "")
        examples = [f"{self.name(index)!r} ({table.damage[index]})" for index in indices[:_SHOWN]]
        return (
            f"{len(indices):,} of the {self.count:,} {self.what} can't be read: "
            f"{', '.join(examples)}{', ...' if len(indices) > _SHOWN else ''}."
        )

    def _check_has_all_classes(self, labels: np.ndarray, damage: str) -> None:
        counts = np.bincount(labels, minlength=len(self.class_names))
        if not counts.all():
            raise EnsembleError(
                f"Of the {self.what} none is a training image of the class "
                f"{self.class_names[int(counts.argmin())]!r}. {damage}".strip()
            )


@dataclass(frozen=True)
class _Table:
    """What was decoded.

    # Arguments
        images: of those that could be read, in order.
        labels, parts, damage, digests: of all: class; index in `PARTS`; why it can't be read, `""`
            if it can; of the bytes.
    """

    images: ImageArray
    labels: np.ndarray
    parts: np.ndarray
    damage: np.ndarray
    digests: np.ndarray

    def rows(self, options: ImageOptions) -> dict[str, np.ndarray]:
        """Indices of each split."""
        rows = {
            name: np.flatnonzero(self.parts == part)
            for part, name in enumerate(PARTS)
            if part in self.parts
        }
        return with_test(rows, self.labels, options)


def _decoded(images: Iterable[Encoded], shape: tuple[int, int, int]) -> Iterator[Chunk]:
    """Decodes images by `larq_ensemble.runtime.images.read_image`, some at a time."""

    def decode(some: Sequence[Encoded]) -> Chunk:
        arrays, damage = [], []
        for image in some:
            data = io.BytesIO(image.data) if isinstance(image.data, bytes) else image.data
            try:
                arrays.append(read_image(data, shape))
                damage.append("")
            except EnsembleError as error:
                damage.append(first_line(error.__cause__ or error))
        return np.stack(arrays) if arrays else np.empty((0, *shape), np.uint8), {
            "labels": np.array([image.label for image in some], np.int32),
            "parts": np.array([PARTS.index(image.part) for image in some], np.int8),
            "damage": np.array(damage),
            "digests": np.array([_digest(image.data) for image in some], np.uint64),
        }

    return in_parallel(decode, _batches(images, _FILES_A_TASK))


def _batches(items: Iterable[Task], size: int) -> Iterator[list[Task]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _digest(data: Path | bytes) -> int:
    if isinstance(data, Path):
        try:
            data = data.read_bytes()
        except OSError:  # a damaged file, which equals no other
            data = str(data).encode(errors="surrogateescape")
    return image_digest(data)


def in_parallel(function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
    """The results in the order of the tasks, a few of which are done ahead.

    Threads are enough for images: Pillow decodes and resizes without Python's lock. An interrupt
    ends after the tasks that run.
    """
    workers = processors()
    pool = ThreadPoolExecutor(workers)
    pending: collections.deque = collections.deque()
    try:
        for task in tasks:
            pending.append(pool.submit(function, task))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class ImageFiles(LazyImages):
    """Image files that are decoded at each access.

    # Arguments
        paths: the files.
        shape: (height, width, channels) of the images.
    """

    def __init__(self, paths: Sequence[Path], shape: tuple[int, int, int]) -> None:
        super().__init__((len(paths), *shape))
        self._paths, self._shape = paths, shape

    def read(self, indices: np.ndarray) -> np.ndarray:
        paths = [self._paths[index] for index in indices]
        images = list(in_parallel(lambda path: read_image(path, self._shape), paths))
        return np.stack(images) if images else np.empty((0, *self._shape), np.uint8)
