"""Writes the page of an ensemble into a folder."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from larq_ensemble.convert.file_conversion import convert_file
from larq_ensemble.convert.web.litert_js import runtime_files
from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.files import check_output_folder, user_path, write_bytes
from larq_ensemble.runtime.file import read_ensemble
from larq_ensemble.runtime.images import check_channels

_STATIC = Path(__file__).with_name("static")
#: The file of the ensemble, and the folders of the sample images and of the runtime.
_ENSEMBLE, _IMAGES, _RUNTIME = "ensemble.tflite", "images", "litert"
#: Formats that every browser shows, by Pillow's names.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
#: More sample images than anybody looks at.
_MOST_IMAGES = 100


@dataclass(frozen=True)
class Page:
    """A page that was written.

    # Arguments
        path: its `index.html`.
        bytes: of all files.
        tflite_bytes: of the ensemble.
        images: number of sample images.
    """

    path: Path
    bytes: int
    tflite_bytes: int
    images: int

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        return {**asdict(self), "path": str(self.path)}


def write_page(
    tflite: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    images: Iterable[str | os.PathLike[str]] = (),
    runtime: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Page:
    """Writes a static page that classifies images with an ensemble, in the browser.

    The page runs the file on LiteRT.js. A file for Larq Compute Engine (LCE) becomes one of builtin
    operators first. Any web server can serve the folder: `python -m http.server`.

    # Arguments
        tflite: the file that `larq-ensemble convert` wrote.
        out: the folder. What is in it stays, unless it has the name of a file of the page.
        images: sample images that the page offers, or folders of them: PNG, JPEG, WebP, GIF or BMP.
        runtime: folder of LiteRT.js's two archives, as `npm pack` writes them; `None`: the cache,
            after a download if they aren't there.
        say: is told what is downloaded.

    # Raises
        EnsembleError: if a file can't be read or used, the runtime can't be had, or `out` can't be
            written.
    """
    folder = check_output_folder(out)
    check_channels(read_ensemble(tflite).metadata.input_shape)
    samples = _samples(images)
    files = {f"{_RUNTIME}/{name}": data for name, data in runtime_files(runtime, say).items()}
    files |= {
        path.relative_to(_STATIC).as_posix(): path.read_bytes()
        for path in _STATIC.rglob("*")
        if path.is_file()
    }
    files |= {sample.address: sample.path.read_bytes() for sample in samples}
    files[_ENSEMBLE] = _stock_file(tflite)
    content = {
        "file": _ENSEMBLE,
        "images": [{"address": sample.address, "name": sample.path.stem} for sample in samples],
    }
    files["page.json"] = json.dumps(content).encode()
    _check_keeps(folder, files, [Path(tflite), *(sample.path for sample in samples)])
    for name, data in files.items():
        write_bytes(folder / name, data)
    size = sum(map(len, files.values()))
    return Page(folder / "index.html", size, len(files[_ENSEMBLE]), len(samples))


def _check_keeps(folder: Path, files: Mapping[str, bytes], sources: Iterable[Path]) -> None:
    """Raises if the page would replace a file that it is made of by other bytes."""
    pages = {os.path.realpath(folder / name): data for name, data in files.items()}
    for source in sources:
        data = pages.get(os.path.realpath(source))
        if data is not None and data != source.read_bytes():
            raise EnsembleError(
                f"`out` {str(folder)!r} has {str(source)!r}, which the page would replace: give "
                "another folder."
            )


def _stock_file(tflite: str | os.PathLike[str]) -> bytes:
    """The bytes of the file, those of one of builtin operators if it is for LCE."""
    file = read_ensemble(tflite)
    if file.metadata.target == "litert":
        return file.data
    with tempfile.TemporaryDirectory() as folder:
        stock = Path(folder) / _ENSEMBLE
        convert_file(tflite, stock)
        return stock.read_bytes()


@dataclass(frozen=True)
class _Sample:
    """A sample image, and its address on the page."""

    path: Path
    address: str


def _samples(images: Iterable[str | os.PathLike[str]]) -> list[_Sample]:
    """The sample images, those of a folder in the order of their names.

    # Raises
        EnsembleError: for a path that isn't there, too many images, or one that no browser shows.
    """
    paths = [path for given in images for path in _image_files(user_path(given))]
    if len(paths) > _MOST_IMAGES:
        raise EnsembleError(
            f"`images` has {len(paths):,} images, and a page offers {_MOST_IMAGES} at most: choose "
            "some."
        )
    for path in paths:
        _check_shown(path)
    return [
        _Sample(path, f"{_IMAGES}/{number:03}{path.suffix.lower()}")
        for number, path in enumerate(paths)
    ]


def _image_files(path: Path) -> list[Path]:
    """An image file, or those in a folder: the files whose names end as those of images."""
    if not path.is_dir():
        return [path]
    known = Image.registered_extensions()
    found = sorted(each for each in path.iterdir() if known.get(each.suffix.lower()) in _FORMATS)
    if not found:
        raise EnsembleError(f"`images` {str(path)!r} is a folder without images: give another.")
    return found


def _check_shown(path: Path) -> None:
    try:
        with Image.open(path) as image:
            shown = image.format in _FORMATS
    except OSError as error:
        raise EnsembleError(
            f"`images` {str(path)!r} can't be read as an image ({first_line(error)}): give a whole "
            "PNG or JPEG file."
        ) from error
    if not shown:
        raise EnsembleError(
            f"`images` {str(path)!r} has a format that browsers don't show: give PNG, JPEG, WebP, "
            "GIF or BMP files."
        )
