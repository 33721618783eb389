"""Data sets in a file of NumPy, `.npz`."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from larq_ensemble.data.arrays import checked_split, found_arrays
from larq_ensemble.data.cache import IN_MEMORY, gathered
from larq_ensemble.data.datasets import Origin
from larq_ensemble.data.digests import fingerprint
from larq_ensemble.data.options import ImageOptions
from larq_ensemble.data.own import Found
from larq_ensemble.data.splits import Split
from larq_ensemble.errors import EnsembleError, first_line

#: Names of a split's images and labels.
_NAMES = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train"), ("images", "labels")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
    "validation": (("val_images", "val_labels"), ("x_val", "y_val")),
}

_CHUNK_BYTES = 1 << 24


def find_npz(path: Path, options: ImageOptions, class_names: Sequence[str] | None) -> Found:
    """What a `.npz` file holds, see the guide on data of one's own.

    # Arguments
        path: the file.
        options: size and channels.
        class_names: of a run, for a file that has none; `None`: numbers.

    # Raises
        EnsembleError: if it is missing, no such file, damaged or has other arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            parts = _parts(path, file)
            if "class_names" in file:
                class_names = _class_names(path, file["class_names"])
        fingerprint = _fingerprint(path)
    except EnsembleError:
        raise
    except FileNotFoundError as error:
        raise EnsembleError(f"There is no file {str(path)!r}: check the path.") from error
    except Exception as error:  # zip and NumPy raise errors of many types
        raise EnsembleError(
            f"{str(path)!r} can't be read as arrays ({first_line(error)}): write it by "
            "`np.savez_compressed`, without objects."
        ) from error
    origin = Origin(spec=f"npz:{path}", images=options, fingerprint=fingerprint)
    return found_arrays(parts, class_names, f"npz:{path.name}", origin)


def _class_names(path: Path, names: np.ndarray) -> list[str]:
    if names.ndim != 1:
        raise EnsembleError(
            f"`class_names` in {str(path)!r} must have the shape [classes]. Received: "
            f"{list(names.shape)}."
        )
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _parts(path: Path, file: Any) -> dict[str, Split]:
    parts = {}
    for part, names in _NAMES.items():
        for images, labels in names:
            if images in file and labels in file:
                parts[part] = checked_split(_images(path, file, images), file[labels], part)
                break
    if "train" not in parts:
        raise EnsembleError(
            f"{str(path)!r} has the arrays {sorted(file)}, but no training images and labels: "
            f"expected {' or '.join('`' + '`, `'.join(pair) + '`' for pair in _NAMES['train'])}."
        )
    return parts


def _images(path: Path, file: Any, name: str) -> np.ndarray:
    """An array of images; one that is large is copied to disk, without being in memory."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        if archive.getinfo(f"{name}.npy").file_size <= IN_MEMORY:
            return file[name]
        version = np.lib.format.read_magic(member)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, is_fortran, dtype = read_header(member)
        if is_fortran or dtype != np.uint8:  # the latter is refused in the end
            return file[name]
        row = int(np.prod(shape[1:]))
        count = max(1, _CHUNK_BYTES // row)
        pieces = iter(lambda: member.read(count * row), b"")
        return gathered(np.frombuffer(each, np.uint8).reshape(-1, *shape[1:]) for each in pieces)


def _fingerprint(path: Path) -> str:
    """Digest of the arrays' names, sizes and the checksums that the file has of them."""
    with zipfile.ZipFile(path) as file:
        entries = sorted((each.filename, each.file_size, each.CRC) for each in file.infolist())
    return fingerprint(entries)
