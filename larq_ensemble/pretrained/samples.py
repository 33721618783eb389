"""A few test images of a data set, which come with the package: the first ones, not chosen.

`images/DATASET.png` has them as tiles, row by row, without loss; `images/DATASET.json` has their
labels and origin.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from larq_ensemble.errors import EnsembleError, UnknownNameError
from larq_ensemble.files import read_json

if TYPE_CHECKING:
    import numpy as np

FOLDER = Path(__file__).with_name("images")


@dataclass(frozen=True)
class Samples:
    """Test images of a data set.

    # Arguments
        dataset: its name.
        images: uint8 [n, height, width, channels].
        labels: class numbers [n].
        class_names: in the order of the labels.
        origin: where the images are from, and their licence.
    """

    dataset: str
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    origin: str


def sample_names(folder: Path = FOLDER) -> list[str]:
    """The data sets of which there are samples."""
    return sorted(path.stem for path in folder.glob("*.json"))


def read_samples(dataset: str, folder: Path = FOLDER) -> Samples:
    """The samples of a data set.

    # Arguments
        dataset: its name.
        folder: where they are.

    # Raises
        UnknownNameError: if there are none.
        EnsembleError: if they are damaged.
    """
    import numpy as np
    from PIL import Image

    if dataset not in sample_names(folder):
        raise UnknownNameError("dataset", dataset, sample_names(folder))
    told = read_json(folder / f"{dataset}.json", "install larq-ensemble again")
    labels = np.array(told["labels"])
    height, width = told["size"]
    with Image.open(folder / f"{dataset}.png") as mosaic:
        pixels = np.asarray(mosaic)
    rows = pixels.reshape(-1, height, pixels.shape[1] // width, width, pixels.shape[2])
    images = rows.swapaxes(1, 2).reshape(-1, height, width, pixels.shape[2])
    if len(images) != len(labels):
        raise EnsembleError(f"The samples of {dataset!r} are damaged: install larq-ensemble again.")
    return Samples(dataset, images, labels, tuple(told["class_names"]), told["origin"])


def write_samples(samples: Samples, folder: Path = FOLDER, *, columns: int = 8) -> None:
    """Writes the samples of a data set.

    # Arguments
        samples: as many images as fill whole rows, of three channels.
        folder: where.
        columns: images of a row.
    """
    import json

    from PIL import Image

    from larq_ensemble.files import replacing, write_text

    count, height, width, channels = samples.images.shape
    rows = samples.images.reshape(count // columns, columns, height, width, channels)
    mosaic = rows.swapaxes(1, 2).reshape(-1, columns * width, channels)
    with replacing(folder / f"{samples.dataset}.png") as temporary:
        Image.fromarray(mosaic).save(temporary, optimize=True)
    told: dict[str, Any] = {
        "size": [height, width],
        "labels": samples.labels.tolist(),
        "class_names": samples.class_names,
        "origin": samples.origin,
    }
    write_text(folder / f"{samples.dataset}.json", json.dumps(told) + "\n")
