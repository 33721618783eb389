"""The data that a .tflite file was trained on, and how its training split them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from larq_ensemble.data.datasets import DATASETS, DataOptions, Dataset, Splits
from larq_ensemble.data.opening import reopen
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.metadata import EnsembleMetadata


@dataclass(frozen=True)
class TrainingSplit:
    """Which images a training held out.

    # Arguments
        seed: that drew them.
        share: of the training images.
        limit_train: as of `DataOptions`.
    """

    seed: int
    share: float
    limit_train: int | None

    def load(self, dataset: Dataset, data_dir: str | None, limit_test: int | None = None) -> Splits:
        """Reads the data and splits them as the training did."""
        options = DataOptions(
            data_dir, validation=self.share, limit_train=self.limit_train, limit_test=limit_test
        )
        return options.load(dataset, self.seed)


def split_of_training(metadata: EnsembleMetadata) -> TrainingSplit | None:
    """How the training of a file split its data; `None`: the file doesn't say it."""
    split = metadata.validation_split if metadata.dataset is not None else {}
    if not {"seed", "share"} <= split.keys():
        return None
    limit_train = split.get("limit_train")
    return TrainingSplit(
        int(split["seed"]), split["share"], None if limit_train is None else int(limit_train)
    )


def nothing_held_out(
    dataset: Dataset, data_dir: str | None, limit_test: int | None = None
) -> Splits:
    """The splits of data of which nobody knows what a training held out."""
    return DataOptions(data_dir, validation=0.0, limit_test=limit_test).load(dataset, 0)


def data_of_file(
    metadata: EnsembleMetadata,
    name: str,
    spec: str | None,
    data_dir: str | None,
    *,
    some_classes: bool = False,
) -> tuple[Dataset, bool]:
    """The data set of a file, or another of its classes, and whether it is that of its training.

    Nothing is trained on them: see `whole` of `reopen`.

    # Arguments
        metadata: of the file.
        name: what messages call the file.
        spec: the data; `None`: the built-in data of the training.
        data_dir: as for `DataOptions`.
        some_classes: as for `reopen`.

    # Raises
        EnsembleError: if the data can't be opened or don't fit, or the file doesn't say where they
            are.
    """
    if spec is None and metadata.dataset is None:
        raise EnsembleError(f"{name} doesn't say what data it is for: give `dataset`.")
    if spec is None and metadata.dataset not in DATASETS:
        raise EnsembleError(
            f"{name} was trained on {metadata.dataset!r}, and files hold no paths: say where "
            "the data are, as `dataset`."
        )
    constants = constants_of(metadata)
    try:
        dataset = reopen(
            constants,
            spec=spec,
            data_dir=data_dir,
            network=name,
            whole=True,
            some_classes=some_classes,
        )
    except (TypeError, KeyError) as error:  # options that a later version may know
        raise EnsembleError(
            f"The file's metadata say of its images what this version can't read ({error}): "
            "convert the run again."
        ) from error
    return dataset, dataset.has_data_of(constants)


def constants_of(metadata: EnsembleMetadata) -> dict[str, Any]:
    """What a file says of its data, as `Dataset.constants` says it."""
    constants: dict[str, Any] = {
        "name": metadata.dataset,
        "classes": metadata.classes,
        "input_shape": metadata.input_shape,
    }
    if metadata.class_names is not None:
        constants["class_names"] = metadata.class_names
    if metadata.data_origin:
        constants["source"] = {"spec": None, **metadata.data_origin}
    return constants


def halves(images: int, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices of two halves of a split, each ascending, drawn by a seed.

    # Arguments
        images: how many there are.
        seed: draws them.
        name: of the data set, for messages.

    # Raises
        EnsembleError: if there are fewer than two images.
    """
    if images < 2:
        raise EnsembleError(f"The data {name!r} have no test images to cut in two.")
    first, second = np.array_split(np.random.default_rng(seed).permutation(images), 2)
    return np.sort(first), np.sort(second)
