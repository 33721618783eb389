"""Data sets in folders of image files: a folder for each class.

```text
photos/cat/1.jpg             photos/train/cat/1.jpg
photos/cat/2019/2.jpg   or   photos/train/dog/3.jpg
photos/dog/3.jpg             photos/test/cat/2.jpg ...
```
"""

from __future__ import annotations

import collections
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from larq_ensemble.console.wording import counted
from larq_ensemble.data.cache import entry_name
from larq_ensemble.data.datasets import Origin
from larq_ensemble.data.digests import fingerprint
from larq_ensemble.data.encoded import Encoded, EncodedImages
from larq_ensemble.data.options import ImageOptions
from larq_ensemble.data.own import (
    PARTS,
    Found,
    Read,
    as_text,
    check_size,
    needs_size,
    resolved,
    shown,
)
from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.progress import tracked
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
#: Formats of phones that Pillow reads only with a plugin.
_PHONE = {".heic", ".heif"}
_IGNORED = {"__macosx", "thumbs.db", "desktop.ini"}


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
        beside: number of image files beside the class folders.
    """

    root: Path
    class_names: tuple[str, ...]
    files: list[_File]
    others: Mapping[str, int]
    beside: int

    @property
    def paths(self) -> list[Path]:
        return [self.root / file.name for file in self.files]


def find_folder(root: Path, options: ImageOptions, known: Collection[str] = ()) -> Found:
    """What a folder of images holds.

    # Arguments
        root: the folder, absolute.
        options: size, channels, damaged files, test share.
        known: names of classes. A lone folder of another name that holds several is around those of
            the classes.

    # Raises
        EnsembleError: if it can't be read, has no folders of classes or an empty one, if its splits
            have different classes, or if no size of images is given and they differ or are large.
    """
    try:
        listing = _listed(root, known)
    except EnsembleError:
        raise
    except (OSError, ValueError) as error:  # the latter for a path with a null byte
        raise EnsembleError(
            f"The folder {str(root)!r} can't be read ({first_line(error)}): give one that holds a "
            "folder of images for each class."
        ) from error
    shape = _input_shape(listing, options)
    files = [(file.name, file.size) for file in listing.files]
    origin = Origin(f"folder:{root}", options, fingerprint(listing.class_names, files))
    return Found(
        name=f"folder:{root.name}",
        class_names=listing.class_names,
        input_shape=shape,
        origin=resolved(origin, shape),
        read=lambda data_dir: _read(listing, shape, options),
        has_test=any(file.part == "test" for file in listing.files),
    )


# --- which files there are -------------------------------------------------------------------


def _listed(root: Path, known: Collection[str]) -> _Listing:
    folders = _part_folders(root)
    class_names = tuple(_folders(folders["train"]))
    _check_classes(root, folders["train"], class_names, known)
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
                    f"put images into it. {_left_out(others)}".rstrip()
                )
            files += of_class
    beside = sum(map(_count_images, {root, *folders.values()}))
    return _Listing(root, class_names, files, others, beside)


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


def _check_classes(
    root: Path, folder: Path, class_names: Sequence[str], known: Collection[str]
) -> None:
    alone = class_names if len(class_names) == 1 else ()
    around = (folder / name for name in alone if name not in known)
    inner = [each for each in around if len(_folders(each)) > 1]
    if inner or not class_names:
        advice = f" Did you mean `folder:{inner[0]}`?" if inner else ""
        raise EnsembleError(
            f"{str(folder)!r} must hold a folder of images for each class."
            f" Found: {shown(class_names) or 'no folders'}.{advice}"
        )
    for path in (root, *(folder / name for name in class_names)):
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise EnsembleError(
                f"The name of the folder {str(path)!r} is no UTF-8: rename it."
            ) from None


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(each.name for each in entries if _is_folder(each) and not _is_ignored(each))


def _count_images(folder: Path) -> int:
    """Image files directly in a folder."""
    with os.scandir(folder) as entries:
        return sum(
            _is_file(each) and not _is_ignored(each) and _suffix(each) in _suffixes()
            for each in entries
        )


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself
        return False


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _suffix(entry: os.DirEntry) -> str:
    return Path(entry.name).suffix.lower()


def _is_ignored(entry: os.DirEntry) -> bool:
    return entry.name.startswith(".") or entry.name.lower() in _IGNORED


def _image_files(
    root: Path, folder: Path, part: str, label: int, others: collections.Counter[str]
) -> Iterator[_File]:
    for entry in _walked(folder, frozenset()):
        suffix = _suffix(entry)
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
            if _is_folder(entry):
                if os.path.realpath(entry.path) not in inside:
                    yield from _walked(entry.path, inside)
            elif _is_file(entry) or entry.is_symlink():
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
            raise needs_size(
                f"The images in {str(listing.root)!r} differ in size, such as {as_text(size)} and "
                f"{as_text((height, width))} (height x width)"
            )
    if size is None:
        raise EnsembleError(
            f"None of the {counted(len(listing.files), 'image file')} in {str(listing.root)!r} can "
            f"be read, such as {str(listing.paths[0])!r}."
        )
    if options.image_size is None:
        check_size(f"The images in {str(listing.root)!r}", size)
    return *size, channels


# --- what is in them -------------------------------------------------------------------------


def _read(listing: _Listing, shape: tuple[int, int, int], options: ImageOptions) -> Read:
    root, files = listing.root, listing.files
    height, width, channels = shape
    images = EncodedImages(
        what=f"image files in {str(root)!r}",
        entry=entry_name(f"{root.name} {height}x{width}x{channels}", str(root), shape),
        key=fingerprint(listing.class_names, files),
        count=len(files),
        class_names=listing.class_names,
        images=lambda: (Encoded(root / each.name, each.part, each.label) for each in files),
        name=lambda index: files[index].name,
        files=listing.paths,
    )
    read = images.read(shape, options)
    remarks = [*read.remarks, *filter(None, [_left_out(listing.others)])]
    if listing.beside:
        remarks.append(
            f"Left out, because in no class: {counted(listing.beside, 'image file')} beside the "
            f"class folders in {str(root)!r}."
        )
    return replace(read, remarks=remarks)


def _left_out(others: Mapping[str, int]) -> str:
    if not others:
        return ""
    kinds = ", ".join(f"{count:,} with {suffix}" for suffix, count in sorted(others.items()))
    convert = " Convert photos of phones to JPEG." if _PHONE & set(others) else ""
    return f"Files that are no images that can be read here are left out: {kinds}.{convert}"
