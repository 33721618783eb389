import os
import urllib.error
import urllib.request

import numpy as np
import pytest

from larq_ensemble.data.datasets import DATASETS, DataOptions, Split
from larq_ensemble.errors import EnsembleError, UnknownNameError


def as_rows(split: Split) -> list[bytes]:
    return [image.tobytes() for image in split.images]


def test_digits_constants_are_those_of_its_training_split(digits):
    scaled = digits[0].images.astype(np.float64) / 255
    dataset = DATASETS["digits"]
    assert dataset.normalization.mean == (pytest.approx(scaled.mean(), abs=5e-5),)
    assert dataset.normalization.std == (pytest.approx(scaled.std(), abs=5e-5),)


def test_digits_are_scikit_learns(digits):
    from sklearn.datasets import load_digits

    train, test = digits
    original = load_digits()
    images = np.concatenate([train.images, test.images])[..., 0]
    assert images.shape == (1797, 8, 8)
    # Levels 0..16 became 0..255: 17 of them, and each image is there once.
    assert np.array_equal(np.unique(images), np.round(np.arange(17) * 255 / 16))
    levels = np.round(images / 255 * 16).astype(int).reshape(len(images), -1)
    labels = np.concatenate([train.labels, test.labels])
    ours = sorted((*row, label) for row, label in zip(levels.tolist(), labels.tolist()))
    theirs = sorted(
        (*row, label)
        for row, label in zip(original.data.astype(int).tolist(), original.target.tolist())
    )
    assert ours == theirs


def test_digits_splits_have_every_class_in_proportion(digits):
    for split, size in zip(digits, (1198, 599)):
        assert split.images.shape == (size, 8, 8, 1)
        assert split.images.dtype == np.uint8
        assert split.labels.shape == (size,)
        assert split.labels.dtype == np.int32
        counts = np.bincount(split.labels)
        assert len(counts) == 10
        assert counts.min() > 0.08 * size


def test_validation_is_cut_from_training_data_and_test_data_are_left_alone(digits):
    splits = DataOptions(validation=0.25).load(DATASETS["digits"], seed=3)
    train, test = digits
    assert len(splits.validation) == round(0.25 * 1198)
    assert sorted(as_rows(splits.train) + as_rows(splits.validation)) == sorted(as_rows(train))
    assert as_rows(splits.test) == as_rows(test)
    label_of = dict(zip(as_rows(train), train.labels))
    for split in (splits.train, splits.validation):
        assert [label_of[row] for row in as_rows(split)] == split.labels.tolist()


def test_the_seed_decides_the_validation_split():
    dataset, options = DATASETS["digits"], DataOptions()
    once, again, other = (options.load(dataset, seed).validation for seed in (0, 0, 1))
    assert as_rows(once) == as_rows(again)
    assert set(as_rows(once)) != set(as_rows(other))


def test_limits(digits):
    options = DataOptions(validation=0.2, limit_train=50, limit_test=7)
    splits = options.load(DATASETS["digits"], seed=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (40, 10, 7)
    assert as_rows(splits.test) == as_rows(digits[1])[:7]
    # Drawn by the seed: the first 50 of the file would be another sample.
    assert set(as_rows(splits.train)) - set(as_rows(digits[0].first(50)))
    # What is held out stays held out: a larger limit only adds to it.
    larger = DataOptions(validation=0.2, limit_train=100).load(DATASETS["digits"], seed=0)
    assert set(as_rows(splits.validation)) <= set(as_rows(larger.validation))
    # And no limit trains on what another holds out.
    assert not set(as_rows(splits.train)) & set(as_rows(larger.validation))
    assert not set(as_rows(larger.train)) & set(as_rows(splits.validation))


@pytest.mark.parametrize("validation", [-0.1, 1.0, float("nan")])
def test_a_validation_share_out_of_range(validation):
    with pytest.raises(EnsembleError, match="`validation` must be at least 0 and below 1"):
        DataOptions(validation=validation)


def test_nothing_left_to_train_on():
    with pytest.raises(EnsembleError, match="No training data is left: 2 examples"):
        DataOptions(validation=0.9, limit_train=2).load(DATASETS["digits"], seed=0)


def test_normalize():
    dataset = DATASETS["cifar100"]
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    normalized = dataset.normalization(images)
    assert normalized.dtype == np.float32
    for channel, (mean, std) in enumerate([(0.4914, 0.2023), (0.4822, 0.1994), (0.4465, 0.2010)]):
        expected = (images[..., channel] / 255.0 - mean) / std
        np.testing.assert_allclose(normalized[..., channel], expected, atol=1e-6)


def test_unknown_dataset_lists_the_names():
    with pytest.raises(UnknownNameError, match=r"'mnist'.*cifar10, cifar100, digits"):
        DATASETS["mnist"]


def test_data_dir_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(EnsembleError, match=r"missing' does not exist.*`data_dir`"):
        DataOptions(data_dir=str(tmp_path / "missing")).load(DATASETS["cifar10"], seed=0)


@pytest.fixture
def offline(monkeypatch):
    """No network; a download without a look at the network first fails the test."""
    import tensorflow_datasets as tfds

    def no_network(request, timeout):
        assert timeout <= 10
        raise urllib.error.URLError("Name or service not known\nsecond line")

    def download(*arguments, **named):
        raise AssertionError("TensorFlow Datasets was asked for a download.")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download)


def error_of(name, data_dir):
    with pytest.raises(EnsembleError) as error:
        DataOptions(data_dir=None if data_dir is None else str(data_dir)).load(DATASETS[name], 0)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.usefixtures("offline")
def test_without_a_network_a_download_fails_at_once_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    message = error_of("cifar100", None)
    assert f"cifar100 is not in '{tmp_path}" in message
    assert "Name or service not known" in message
    assert "as `data_dir`" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("offline")
def test_a_server_that_answers_is_asked_for_the_download(monkeypatch, tmp_path):
    """Whatever it answers: a server may not like HEAD."""

    def refuse(request, timeout):
        raise urllib.error.HTTPError(request.full_url, 405, "Not allowed", None, None)

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    assert "TensorFlow Datasets was asked for a download" in error_of("cifar10", None)


@pytest.mark.usefixtures("offline")
def test_nothing_is_downloaded_into_a_folder_that_is_given(tmp_path):
    message = error_of("cifar100", tmp_path)
    assert f"`data_dir` '{tmp_path}' does not hold cifar100" in message
    assert "leave `data_dir` out and set the environment variable TFDS_DATA_DIR" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", ["data/cifar10", "data/cifar10/3.0.2", "."])
@pytest.mark.usefixtures("offline")
def test_a_folder_near_the_right_one(tmp_path, given):
    folder = tmp_path / "data"
    (folder / "cifar10" / "3.0.2").mkdir(parents=True)
    assert f"Did you mean '{folder}'?" in error_of("cifar10", tmp_path / given)
    assert list(folder.rglob("*")) == [folder / "cifar10", folder / "cifar10" / "3.0.2"]


def test_digits_are_in_no_folder(tmp_path):
    assert f"`data_dir` '{tmp_path}' has no effect" in error_of("digits", tmp_path)


def test_class_names_are_known_before_a_download():
    names = DATASETS["cifar100"].constants()["class_names"]
    assert len(names) == len(set(names)) == 100
    # The labels are numbered by the alphabet.
    assert names == sorted(names)
    assert (names[0], names[47], names[99]) == ("apple", "maple_tree", "worm")
    assert DATASETS["cifar10"].class_names[:4] == ("airplane", "automobile", "bird", "cat")


@pytest.mark.skipif(
    "LARQ_ENSEMBLE_DATA_DIR" not in os.environ,
    reason="LARQ_ENSEMBLE_DATA_DIR does not name a folder that holds cifar100/",
)
def test_cifar100():
    import tensorflow_datasets as tfds

    dataset, folder = DATASETS["cifar100"], os.environ["LARQ_ENSEMBLE_DATA_DIR"]
    labels = tfds.builder("cifar100", data_dir=folder, try_gcs=False).info.features["label"]
    assert tuple(labels.names) == dataset.class_names
    train, test = dataset.read(folder)
    for split, size in ((train, 50_000), (test, 10_000)):
        assert split.images.shape == (size, 32, 32, 3)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert np.array_equal(np.bincount(split.labels), np.full(100, size // 100))
    # The paper's code uses CIFAR-10's constants for both; they are close, not equal.
    np.testing.assert_allclose(
        train.images.mean((0, 1, 2)) / 255, dataset.normalization.mean, atol=0.02
    )
