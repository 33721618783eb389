"""How the data of a file are cut: as its training cut them, or in two halves."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.training.file_data import (
    TrainingSplit,
    data_of_file,
    halves,
    nothing_held_out,
    split_of_training,
)


@pytest.mark.parametrize("images", [2, 7, 100])
def test_two_halves_are_all_images_once(images: int) -> None:
    first, second = halves(images, 3, "photos")
    assert len(first) - len(second) in (0, 1)
    np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), np.arange(images))
    assert all((np.diff(half) > 0).all() for half in (first, second))
    np.testing.assert_array_equal(halves(images, 3, "photos")[0], first)


def test_another_seed_cuts_otherwise_and_one_image_is_too_few() -> None:
    assert (halves(100, 3, "photos")[0] != halves(100, 4, "photos")[0]).any()
    with pytest.raises(EnsembleError, match="'photos' have no test images to cut in two"):
        halves(1, 0, "photos")


@pytest.mark.parametrize(
    ("dataset", "split", "expected"),
    [
        ("digits", {"seed": 5.0, "share": 0.1}, TrainingSplit(5, 0.1, None)),
        ("digits", {"seed": 5, "share": 0.1, "limit_train": 80.0}, TrainingSplit(5, 0.1, 80)),
        ("digits", {"share": 0.1}, None),
        ("digits", {}, None),
        (None, {"seed": 5, "share": 0.1}, None),  # nobody knows of what
    ],
)
def test_what_a_file_says_of_its_split(dataset, split, expected) -> None:
    metadata = SimpleNamespace(dataset=dataset, validation_split=split)
    assert split_of_training(metadata) == expected


def test_all_images_of_a_folder_are_for_a_file_of_built_in_data(tmp_path) -> None:
    names = ("cat", "dog")
    metadata = SimpleNamespace(
        dataset="cifar10", classes=2, class_names=names, input_shape=(4, 4, 1), data_origin={}
    )
    images = np.arange(160, dtype=np.uint8).reshape(10, 4, 4)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(10) % 2, class_names=names)
    data, is_own = data_of_file(metadata, "the file", f"npz:{tmp_path / 'x.npz'}", None)
    assert not is_own
    splits = nothing_held_out(data, None)
    assert [len(split) for split in (splits.train, splits.validation, splits.test)] == [0, 0, 10]
