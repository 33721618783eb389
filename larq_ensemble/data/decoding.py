"""Image files decoded in parallel, once or at each access."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from larq_ensemble.data.splits import LazyImages
from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.runtime.images import read_image
from larq_ensemble.runtime.threads import processors

Task = TypeVar("Task")
Result = TypeVar("Result")

_FILES_A_TASK = 16


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


@dataclass(frozen=True)
class Decoded:
    """Some files.

    # Arguments
        images: uint8 [k, h, w, c], those of files that could be read, in order.
        damage: for each file why it can't be read, `""` if it can.
        digests: of the files' bytes, uint64 for each file.
    """

    images: np.ndarray
    damage: list[str]
    digests: np.ndarray


def decoded(paths: Sequence[Path], shape: tuple[int, int, int]) -> Iterator[Decoded]:
    """Decodes image files by `larq_ensemble.runtime.images.read_image`, some at a time."""

    def decode(some: Sequence[Path]) -> Decoded:
        images, damage = [], []
        for path in some:
            try:
                images.append(read_image(path, shape))
                damage.append("")
            except EnsembleError as error:
                damage.append(first_line(error.__cause__ or error))
        array = np.stack(images) if images else np.empty((0, *shape), np.uint8)
        return Decoded(array, damage, np.array([_digest(path) for path in some], np.uint64))

    starts = range(0, len(paths), _FILES_A_TASK)
    return in_parallel(decode, (paths[start : start + _FILES_A_TASK] for start in starts))


def _digest(path: Path) -> int:
    try:
        data = path.read_bytes()
    except OSError:
        data = str(path).encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


class ImageFiles(LazyImages):
    """Image files that are decoded at each access.

    # Arguments
        paths: the files.
        shape: (height, width, channels) of the images.
    """

    def __init__(self, paths: Sequence[Path], shape: tuple[int, int, int]) -> None:
        super().__init__((len(paths), *shape))
        self._paths = paths

    def read(self, indices: np.ndarray) -> np.ndarray:
        shape: tuple[int, int, int] = self.shape[1:]  # type: ignore[assignment]
        paths = [self._paths[index] for index in indices]
        images = list(in_parallel(lambda path: read_image(path, shape), paths))
        return np.stack(images) if images else np.empty((0, *shape), np.uint8)
