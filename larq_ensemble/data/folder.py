"""Data sets in folders of image files: a folder for each class.

photos/cat/1.jpg             photos/train/cat/1.jpg
photos/cat/2019/2.jpg   or   photos/train/dog/3.jpg
photos/dog/3.jpg             photos/test/cat/2.jpg ...
"""

from __future__ import annotations

import collections
import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from larq_ensemble.console.wording import counted
from larq_ensemble.data.cache import Chunk, NoRoomError, cached, entry_name
from larq_ensemble.data.datasets import Origin
from larq_ensemble.data.decoding import ImageFiles, decoded
from larq_ensemble.data.options import ImageOptions
from larq_ensemble.data.own import PARTS, Found, Read, resolved, shown, with_test_rows
from larq_ensemble.data.splits import ImageArray, Rows, Split
from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.progress import tracked, working
from larq_ensemble.runtime.images import image_size

#: Folder of a split, in lower case -> its name in `PARTS`.
_PARTS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
_IGNORED = {"__macosx", "thumbs.db", "desktop.ini"}
#: Pixels: the largest side that images have without being asked for.
_LARGEST = 256
_SHOWN = 3


class _File(NamedTuple):
    """An image file.

    # Arguments
        name: path in the folder, with `/` between the parts.
        part: its split, a name in `PARTS`.
        label: its class.
        size: in bytes.
        time: of the last change, in nanoseconds.
    """

    name: str
    part: str
    label: int
    size: int
    time: int


@dataclass(frozen=True)
class _Listing:
    """The image files of a folder, sorted by split, class and name.

    # Arguments
        root: the folder.
        class_names: sorted.
        files: the image files.
        others: number of files that are no images, by the endings of their names.
    """

    root: Path
    class_names: tuple[str, ...]
    files: list[_File]
    others: Mapping[str, int]

    @property
    def paths(self) -> list[Path]:
        return [self.root / file.name for file in self.files]

    @property
    def labels(self) -> np.ndarray:
        return np.array([file.label for file in self.files], np.int32)

    def rows(self, options: ImageOptions) -> dict[str, np.ndarray]:
        """Indices of the files of each split. Without a test split one is cut.

        Damaged files are there, too: which ones can be read moves no others between the splits.
        """
        parts = np.array([file.part for file in self.files])
        rows = {part: np.flatnonzero(parts == part) for part in PARTS if part in parts}
        return rows if "test" in rows else with_test_rows(self.labels, options)


def find_folder(root: Path, options: ImageOptions) -> Found:
    """What a folder of images holds.

    # Arguments
        root: the folder, absolute.
        options: size, channels, damaged files, test share.

    # Raises
        EnsembleError: if it can't be read, has no folders of classes, an empty one or fewer than
            two, if its splits have different classes, or if no size of images is given and they
            differ or are large.
    """
    try:
        listing = _listed(root)
    except OSError as error:
        raise EnsembleError(
            f"The folder {str(root)!r} can't be read ({first_line(error)}): give one that holds a "
            "folder of images for each class."
        ) from error
    shape = _input_shape(listing, options)
    files = [(file.name, file.size) for file in listing.files]
    origin = Origin(f"folder:{root}", options, _digest(listing.class_names, files))
    return Found(
        name=f"folder:{root.name}",
        class_names=listing.class_names,
        input_shape=shape,
        origin=resolved(origin, shape),
        read=lambda data_dir: _read(listing, shape, options),
    )


def _digest(*values: object) -> str:
    return hashlib.sha256(repr(values).encode(errors="surrogateescape")).hexdigest()


# --- which files there are -------------------------------------------------------------------


def _listed(root: Path) -> _Listing:
    folders = _part_folders(root)
    class_names = tuple(_folders(folders["train"]))
    _check_classes(root, folders["train"], class_names)
    files: list[_File] = []
    others: collections.Counter[str] = collections.Counter()
    for part, folder in folders.items():
        if differing := set(_folders(folder)) ^ set(class_names):
            raise EnsembleError(
                f"{str(folders['train'])!r} and {str(folder)!r} must have folders of the same "
                f"classes. Only one of them has {shown(sorted(differing))}."
            )
        for label, name in enumerate(class_names):
            of_class = sorted(_image_files(root, folder / name, part, label, others))
            if part == "train" and not of_class:
                raise EnsembleError(
                    f"The class folder {str(folder / name)!r} has no image files: remove it, or "
                    f"put images into it.{_left_out(others)}"
                )
            files += of_class
    return _Listing(root, class_names, files, others)


def _part_folders(root: Path) -> dict[str, Path]:
    """The folder of each split, by its name in `PARTS`; without such folders all is `train`."""
    names = _folders(root)
    known = [name for name in names if name.lower() in _PARTS]
    if "train" not in map(_PARTS.get, map(str.lower, known)) or (len(known) == 1 < len(names)):
        return {"train": root}  # a folder `train` among others is a class of vehicles
    parts = {_PARTS[name.lower()]: root / name for name in known}
    if len(parts) < len(names):
        raise EnsembleError(
            f"{str(root)!r} has the folders {shown(names)}: give one that holds either a folder "
            "for each class, or `train`, `test` and `validation` with these in each."
        )
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
    return {part: parts[part] for part in PARTS if part in parts}


def _check_classes(root: Path, folder: Path, class_names: Sequence[str]) -> None:
    if len(class_names) < 2:
        inner = [folder / name for name in class_names if len(_folders(folder / name)) > 1]
        advice = f" Did you mean `folder:{inner[0]}`?" if inner else ""
        raise EnsembleError(
            f"{str(folder)!r} must hold a folder of images for each class, of two classes or more."
            f" Found: {shown(class_names) or 'no folders'}.{advice}"
        )
    for name in class_names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise EnsembleError(
                f"The name of the class folder {name!r} in {str(root)!r} is no UTF-8: rename it."
            ) from None


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(each.name for each in entries if each.is_dir() and not _is_ignored(each))


def _is_ignored(entry: os.DirEntry) -> bool:
    return entry.name.startswith(".") or entry.name.lower() in _IGNORED


def _image_files(
    root: Path, folder: Path, part: str, label: int, others: collections.Counter[str]
) -> Iterator[_File]:
    for entry in _walked(folder, frozenset()):
        suffix = Path(entry.name).suffix.lower()
        if suffix not in _suffixes():
            others[suffix or "no ending"] += 1
            continue
        name = Path(entry.path).relative_to(root).as_posix()
        try:
            status = entry.stat()
        except OSError:  # such as a link into nowhere: it can't be read later, either
            status = entry.stat(follow_symlinks=False)
        yield _File(name, part, label, status.st_size, status.st_mtime_ns)


def _walked(folder: str | Path, inside: frozenset[str]) -> Iterator[os.DirEntry]:
    """All files in a folder and those in it, also behind links, each loop of links once."""
    inside |= {os.path.realpath(folder)}
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_ignored(entry):
                continue
            if entry.is_dir():
                if os.path.realpath(entry.path) not in inside:
                    yield from _walked(entry.path, inside)
            elif entry.is_file() or entry.is_symlink():
                yield entry


@cache
def _suffixes() -> frozenset[str]:
    """Endings of the files that Pillow can read."""
    return frozenset(
        suffix for suffix, format_ in Image.registered_extensions().items() if format_ in Image.OPEN
    )


def _input_shape(listing: _Listing, options: ImageOptions) -> tuple[int, int, int]:
    """The options' size and channels, and where they don't say it those of the images."""
    size, channels = options.image_size, int(options.channels or 1)
    for path in tracked(listing.paths, "looking at the images", unit="image"):
        if options.image_size is not None and (options.channels or channels == 3):
            break
        try:
            height, width, of_file = image_size(path)
        except Exception:  # damaged files are for `_read` to tell
            continue
        channels = options.channels or max(channels, of_file)
        if size is None:
            size = height, width
        elif options.image_size is None and size != (height, width):
            raise _needs_size(listing, f"differ in size, such as {size} and {(height, width)}")
    if size is None:
        raise EnsembleError(
            f"None of the {counted(len(listing.files), 'image file')} in {str(listing.root)!r} can "
            f"be read, such as {str(listing.paths[0])!r}."
        )
    if options.image_size is None and max(size) > _LARGEST:
        raise _needs_size(listing, f"have the size {size}, which is large for a network")
    return *size, channels


def _needs_size(listing: _Listing, problem: str) -> EnsembleError:
    return EnsembleError(
        f"The images in {str(listing.root)!r} {problem} (height, width): give `image_size`, such "
        "as 64 x 64. All images are cropped and resized to it."
    )


# --- what is in them ---------------------------------------------------------------------------


def _read(listing: _Listing, shape: tuple[int, int, int], options: ImageOptions) -> Read:
    images, damage, digests = _decoded(listing, shape)
    is_whole = damage == ""
    remarks = []
    if not is_whole.all():
        problem = _damage(listing, damage)
        if options.damaged == "refuse":
            raise EnsembleError(f"{problem} Repair or remove them, or skip them (`damaged`).")
        remarks.append(f"{problem} They are left out.")
    image_of_file = np.cumsum(is_whole) - 1
    rows = {part: each[is_whole[each]] for part, each in listing.rows(options).items()}
    counts = np.bincount(listing.labels[rows["train"]], minlength=len(listing.class_names))
    if not counts.all():
        name = listing.class_names[int(counts.argmin())]
        raise EnsembleError(f"No training image of the class {name!r} can be read. {problem}")
    if listing.others:
        remarks.append(_left_out(listing.others).strip())
    remarks += _leaks(listing, rows, digests)
    splits = {
        part: Split(Rows(images, image_of_file[each]), listing.labels[each])
        for part, each in rows.items()
    }
    return Read(splits, remarks)


def _decoded(
    listing: _Listing, shape: tuple[int, int, int]
) -> tuple[ImageArray, np.ndarray, np.ndarray]:
    """Images of the files that can be read; why others can't, and a digest, of each file."""

    def chunks() -> Iterator[Chunk]:
        with working("reading images", len(listing.files), unit="image") as work:
            for some in decoded(listing.paths, shape):
                yield some.images, {"damage": np.array(some.damage), "digests": some.digests}
                work.advance(len(some.damage))

    height, width, channels = shape
    label = f"{listing.root.name} {height}x{width}x{channels}"
    key = _digest([(file.name, file.size, file.time) for file in listing.files])
    size = len(listing.files) * int(np.prod(shape))
    try:
        entry = cached(entry_name(label, str(listing.root), shape), key, size, chunks)
        return entry.images, entry.columns["damage"], entry.columns["digests"]
    except NoRoomError as error:
        warnings.warn(f"{error} Now images are decoded at each access.", stacklevel=2)
    columns = [others for _, others in chunks()]
    damage, digests = (
        np.concatenate([each[name] for each in columns]) for name in ("damage", "digests")
    )
    whole = [path for path, reason in zip(listing.paths, damage) if not reason]
    return ImageFiles(whole, shape), damage, digests


def _damage(listing: _Listing, damage: np.ndarray) -> str:
    indices = np.flatnonzero(damage != "")
    examples = [f"{listing.files[index].name!r} ({damage[index]})" for index in indices[:_SHOWN]]
    return (
        f"{len(indices):,} of {counted(len(damage), 'image file')} in {str(listing.root)!r} can't "
        f"be read: {', '.join(examples)}{', ...' if len(indices) > _SHOWN else ''}."
    )


def _left_out(others: Mapping[str, int]) -> str:
    if not others:
        return ""
    kinds = ", ".join(f"{count:,} with {suffix}" for suffix, count in sorted(others.items()))
    return f" Files that are no images that can be read here are left out: {kinds}."


def _leaks(listing: _Listing, rows: Mapping[str, np.ndarray], digests: np.ndarray) -> Iterator[str]:
    """A remark for each split that has files of the training split."""
    for part, each in rows.items():
        if part == "train":
            continue
        _, first, second = np.intersect1d(
            digests[rows["train"]], digests[each], return_indices=True
        )
        if len(first):
            pair = [listing.files[rows["train"][first[0]]], listing.files[each[second[0]]]]
            yield (
                f"The {part} split has {counted(len(first), 'image')} of the training split, which "
                f"makes accuracies too high: {pair[0].name!r} and {pair[1].name!r}, for example, "
                "are equal. Remove one of each."
            )
