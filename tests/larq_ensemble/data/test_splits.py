import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from larq_ensemble.data.datasets import DATASETS, DataOptions, Dataset, Split, Splits
from larq_ensemble.data.splits import LazyImages, Rows, imbalance, stratified


class Counted(LazyImages):
    """An array behind the protocol, which counts the images that are read."""

    def __init__(self, images):
        super().__init__(images.shape)
        self.images, self.count = images, 0

    def read(self, indices):
        self.count += len(indices)
        return self.images[indices]


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (7, 2, 3, 1), dtype=np.uint8)


@pytest.mark.parametrize(
    "key", [2, -1, slice(1, 6, 2), slice(None, 0), [3, 0, 3], np.arange(7) % 2 == 0]
)
def test_lazy_images_are_indexed_as_arrays_are(images, key):
    order = np.array([4, 1, 0, 6, 2, 3, 5])
    for lazy, array in ((Counted(images), images), (Rows(images, order), images[order])):
        assert np.array_equal(lazy[key], array[key])
        assert np.array_equal(np.asarray(lazy), array)
        assert (len(lazy), lazy.shape, lazy.dtype) == (7, array.shape, array.dtype)


def test_some_examples_of_a_split_on_disk_are_not_read_before_they_are_used(images):
    disk = Counted(images)
    labels = np.arange(7, dtype=np.int32)
    some = Split(disk, labels).take(np.array([5, 3, 1])).take(np.array([2, 0])).first(2)
    assert (disk.count, len(some), some.labels.tolist()) == (0, 2, [1, 5])
    assert np.array_equal(some.images[np.array([1])], images[[5]])
    assert disk.count == 1


def test_a_memory_map_stays_on_disk(tmp_path, images):
    images.tofile(tmp_path / "images")
    on_disk = np.memmap(tmp_path / "images", np.uint8, "r", shape=images.shape)
    split = Split(on_disk, np.arange(7)).take(np.array([6, 2]))
    assert isinstance(split.images, Rows)
    read = split.images[np.array([0, 1])]
    assert type(read) is np.ndarray
    assert np.array_equal(read, images[[6, 2]])


def test_stratified_by_hand():
    # A quarter of 10, 6 and 1 are 2.5, 1.5 and 0.25; of 17 in all 4: 2, 1, 0, and one more.
    labels = np.repeat([0, 1, 2], [10, 6, 1])
    drawn, others = stratified(labels, 0.25, np.random.default_rng(0))
    assert np.bincount(labels[drawn], minlength=3).tolist() in ([3, 1, 0], [2, 2, 0])
    assert sorted([*drawn, *others]) == list(range(17))


@given(st.lists(st.integers(0, 4), max_size=60), st.floats(0, 1), st.integers(0, 9))
def test_stratified(labels, share, seed):
    labels = np.array(labels, int)
    drawn, others = stratified(labels, share, np.random.default_rng(seed))
    assert sorted([*drawn, *others]) == list(range(len(labels)))
    counts, of_drawn = (np.bincount(each, minlength=5) for each in (labels, labels[drawn]))
    if share == 1:
        assert len(others) == 0
        return
    assert len(drawn) <= round(share * len(labels))
    assert (abs(of_drawn - share * counts)[counts > 0] <= 1).all()
    assert (of_drawn < counts)[counts > 0].all()


def test_the_splits_of_built_in_data_are_those_of_earlier_versions():
    """Digests of what version 0.1.0 trained on before there were data of one's own."""
    limited = DataOptions(validation=0.25, limit_train=100, limit_test=9)
    for options, seed, expected in (
        (DataOptions(), 3, ["222839253addd148", "244a028047b2ed16", "7ad568c02a0ba75f"]),
        (limited, 7, ["a8f08c61e81a884a", "0c501ac60a471a35", "319fd840b68775b1"]),
    ):
        splits = options.load(DATASETS["digits"], seed)
        digests = [
            hashlib.sha256(split.images.tobytes() + split.labels.tobytes()).hexdigest()[:16]
            for split in (splits.train, splits.validation, splits.test)
        ]
        assert digests == expected


def own(count=40, **named):
    """Data of one's own: three of class 0 to one of class 1; pixel = number of the image."""
    images = np.arange(count, dtype=np.uint8)[:, None, None] * np.ones((2, 2), np.uint8)
    return Dataset.from_arrays(images, (np.arange(count) % 4 == 3).astype(int), **named)


def numbers(split):
    return np.asarray(split.images)[:, 0, 0, 0].tolist()


def test_splits_of_ones_own_have_the_classes_in_proportion():
    splits = DataOptions(validation=0.25).load(own(), seed=0)
    assert splits.counts(2) == {"train": [18, 6], "validation": [6, 2], "test": [6, 2]}
    assert imbalance(splits.counts(2)["train"]) == 3
    assert imbalance([3, 0]) == float("inf")
    again, other = (DataOptions(validation=0.25).load(own(), seed) for seed in (0, 1))
    assert numbers(again.validation) == numbers(splits.validation)
    # Seeds of trainings cut another validation split, and have the same test images.
    assert set(numbers(other.validation)) != set(numbers(splits.validation))
    assert numbers(other.test) == numbers(splits.test)
    for split in (splits.train, splits.validation, splits.test):
        assert [number % 4 == 3 for number in numbers(split)] == split.labels.tolist()


def test_limits_of_ones_own():
    small, large = (
        DataOptions(validation=0.25, limit_train=limit, limit_test=limit // 4).load(own(), 0)
        for limit in (8, 16)
    )
    assert [len(each) for each in vars(small).values()] == [6, 2, 2]
    for part in ("train", "validation", "test"):
        assert set(numbers(getattr(small, part))) <= set(numbers(getattr(large, part)))


def test_a_limited_test_split_is_drawn_from_all_classes():
    """The first images of a sorted test split would be of one class."""
    images, labels = np.zeros((40, 2, 2), np.uint8), np.repeat([0, 1], 20)
    images[0] = 1
    dataset = Dataset.from_arrays(images, labels, test=(images, labels))
    limited = [DataOptions(limit_test=10).load(dataset, seed).test for seed in (0, 1)]
    assert 0 < limited[0].labels.sum() < 10
    assert limited[0].labels.tolist() == limited[1].labels.tolist()
    assert DataOptions(limit_test=0).load(dataset, 0).test.images.shape == (0, 2, 2, 1)


def test_a_validation_split_of_ones_own_is_held_out():
    some = np.full((4, 2, 2), 200, np.uint8), [0, 1, 0, 1]
    dataset = own(validation=some)
    held_out = DataOptions(validation=0.1).load(dataset, 0)
    assert numbers(held_out.validation) == [200] * 4
    assert len(held_out.train) == 32
    assert len(DataOptions(validation=0).load(dataset, 0).validation) == 0
    limited = DataOptions(validation=0.1, limit_train=20).load(dataset, 0)
    assert (len(limited.train), len(limited.validation)) == (18, 2)


def test_counts_have_classes_without_images():
    empty = Split(np.empty((0, 1, 1, 1), np.uint8), np.empty(0, np.int32))
    splits = Splits(Split(np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 2])), empty, empty)
    assert splits.counts(4) == {
        "train": [1, 0, 1, 0],
        "validation": [0, 0, 0, 0],
        "test": [0, 0, 0, 0],
    }
