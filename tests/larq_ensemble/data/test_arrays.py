"""Data sets of arrays in Python and in files of NumPy."""

import numpy as np
import pytest

from larq_ensemble.data import cache, npz
from larq_ensemble.data.datasets import DataOptions, Dataset
from larq_ensemble.data.opening import open_dataset, reopen
from larq_ensemble.data.options import ImageOptions
from larq_ensemble.errors import EnsembleError


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (20, 4, 6, 3), dtype=np.uint8)


LABELS = np.arange(20) % 3


def error_of(function, *arguments, **named):
    with pytest.raises(EnsembleError) as error:
        function(*arguments, **named)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_constants_of_arrays(images):
    test = images[:5], LABELS[:5]
    dataset = Dataset.from_arrays(images, LABELS, test=test, class_names=["a", "b", "c"])
    constants = dataset.constants()
    scaled = images.astype(np.float64) / 255
    np.testing.assert_allclose(constants["mean"], scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(constants["std"], scaled.std((0, 1, 2)), rtol=1e-12)
    assert constants["class_names"] == ["a", "b", "c"]
    assert (constants["classes"], constants["input_shape"]) == (3, [4, 6, 3])
    # Not those of all images, but of what is trained on.
    cut = Dataset.from_arrays(images, LABELS)
    train = np.asarray(cut.read(None)[0].images)
    assert len(train) == 16
    np.testing.assert_allclose(cut.normalization.mean, train.mean((0, 1, 2)) / 255, rtol=1e-12)


def test_statistics_of_more_images_than_are_summed_at_once(monkeypatch, images):
    whole = Dataset.from_arrays(images, LABELS).normalization
    monkeypatch.setattr("larq_ensemble.data.own._CHUNK_BYTES", 3 * 72)
    assert Dataset.from_arrays(images, LABELS).normalization == whole


def test_a_constant_channel_becomes_zero_and_constant_images_are_refused(images):
    images[..., 1] = 51
    dataset = Dataset.from_arrays(images, LABELS)
    assert dataset.normalization.std[1] == 1
    np.testing.assert_allclose(dataset.normalization(images)[..., 1], 0, atol=1e-6)
    assert "of one color" in error_of(Dataset.from_arrays, np.full_like(images, 7), LABELS)


def test_images_get_the_size_and_channels_asked_for(images):
    options = ImageOptions(image_size=(8, 12), channels=1)
    dataset = Dataset.from_arrays(images[..., :1].repeat(3, -1), LABELS, options=options)
    assert dataset.input_shape == (8, 12, 1)
    train = dataset.read(None)[0]
    assert train.images.shape == (16, 8, 12, 1)
    # Twice the size by bilinear interpolation: the mean stays about that of the image.
    before = np.asarray(Dataset.from_arrays(images[..., 0], LABELS).read(None)[0].images)
    np.testing.assert_allclose(train.images.mean((1, 2, 3)), before.mean((1, 2, 3)), atol=12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x / 255, y), r"float64.*`np.rint\(255 \* images\)"),
        (lambda x, y: (x.astype(np.uint16), y), r"uint16.*`\(images // 257\)"),
        (lambda x, y: (x.astype(np.int64), y), r"int64.*`np.rint\(images\)"),
        (lambda x, y: (x[0, 0], y), r"shape \[n, height, width, channels\].*\[6, 3\]"),
        (lambda x, y: (x[:, :0], y), r"Received: \[20, 0, 6, 3\]"),
        (lambda x, y: (np.moveaxis(x, -1, 1), y), r"`np.moveaxis\(images, 1, -1\)`"),
        (lambda x, y: (x, np.eye(3)[y]), r"\[20, 3\].*`labels.argmax\(axis=-1\)`"),
        (lambda x, y: (x, y / 2), "whole numbers from 0 on. Received: float64"),
        (lambda x, y: (x, y << 32), r"up to 1048575. Received: 8589934592. Number"),
        (lambda x, y: (x, y - 1), "Received: int64 .* from -1 on"),
        (lambda x, y: (x, np.array(["cat"] * 20)), r"<U3.*`names, labels = np.unique\(labels, ret"),
        (lambda x, y: (x, ["cat", None] * 10), r"object.*`class_names=names`"),
        (lambda x, y: (x, y[:9]), "20 train images, but 9 labels"),
        (lambda x, y: (x, y + 1), "No training image has the label 0"),
        (lambda x, y: (x, y * 0), "two classes or more"),
        (lambda x, y: (x[:0], y[:0]), "two classes or more"),
    ],
)
def test_what_is_no_images_or_no_labels(images, change, message):
    with pytest.raises(EnsembleError, match=message):
        Dataset.from_arrays(*change(images, LABELS))


def test_equal_images_in_two_splits_are_told(images):
    images[17] = images[4]
    test = images[15:], LABELS[15:]
    with pytest.warns(UserWarning, match="test split has 1 image .* 'train image 4' and 'test im"):
        Dataset.from_arrays(images[:15], LABELS[:15], test=test)
    images[:] = images[:1]
    images[::2, 0, 0, 0] += 1
    with pytest.warns(UserWarning, match="test split has 2 images of the training split"):
        Dataset.from_arrays(images, LABELS)


def test_class_names_that_do_not_fit(images):
    build = Dataset.from_arrays
    assert "of 2 classes must be from 0 to 1. Received: 2" in error_of(
        build, images, LABELS, class_names="ab"
    )
    assert "More than once there: ['a']" in error_of(build, images, LABELS, class_names="aba")
    more = build(images, LABELS, class_names="abcd")  # a class without an image can have a name
    assert more.classes == 4


@pytest.mark.parametrize("option", [{"test_share": 0.5}, {"split_seed": 1}])
def test_options_of_a_test_split_that_is_there(images, option):
    test = images[15:], LABELS[15:]
    arrays, options = (images[:15], LABELS[:15]), ImageOptions(**option)
    message = error_of(Dataset.from_arrays, *arrays, test=test, options=options)
    assert f"`{next(iter(option))}`" in message
    assert "has no effect: 'arrays' has a test split" in message
    Dataset.from_arrays(*arrays, options=options)


def test_splits_of_several_sizes_need_one(images):
    test = np.zeros((3, 5, 5, 3), np.uint8), np.arange(3)
    message = error_of(Dataset.from_arrays, images, LABELS, test=test)
    assert "(train 4x6, test 5x5, height x width): give `image_size=(64, 64)`" in message
    options = ImageOptions(image_size=(4, 6))
    dataset = Dataset.from_arrays(images, LABELS, test=test, options=options)
    assert dataset.read(None)[1].images.shape == (3, 4, 6, 3)


def test_arrays_of_a_run_can_only_be_given_again(images, tmp_path):
    constants = Dataset.from_arrays(images, LABELS).constants()
    assert "were given as arrays in Python" in error_of(reopen(constants).read, None)
    np.savez(tmp_path / "data.npz", images=images, labels=LABELS)
    again = reopen(constants, spec=f"npz:{tmp_path / 'data.npz'}")
    assert again.read(None)[0].images.shape == (16, 4, 6, 3)


@pytest.mark.parametrize(
    "names",
    [
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("x_train", "y_train", "x_test", "y_test"),
    ],
)
@pytest.mark.parametrize("type_", [str, bytes])
def test_a_file_of_numpy(tmp_path, images, names, type_):
    path = tmp_path / "set.npz"
    arrays = images[:15], LABELS[:15, None], images[15:], LABELS[15:, None]  # Keras's labels
    np.savez_compressed(
        path, **dict(zip(names, arrays)), class_names=np.array([*"xyz"]).astype(type_)
    )
    dataset = open_dataset(f"npz:{path}")
    assert (dataset.name, dataset.class_names) == ("npz:set.npz", ("x", "y", "z"))
    train, test = dataset.read(None)
    assert np.array_equal(train.images, images[:15])
    assert np.array_equal(test.labels, LABELS[15:])
    assert test.labels.dtype == np.int32
    constants = dataset.constants()
    assert constants["source"]["spec"] == f"npz:{path}"
    assert reopen(constants).constants() == constants


def test_a_large_file_of_numpy_is_copied_to_disk(tmp_path, images, monkeypatch):
    path = tmp_path / "set.npz"
    np.savez(path, images=images, labels=LABELS, val_images=images[:3], val_labels=LABELS[:3])
    in_memory = open_dataset(f"npz:{path}")
    monkeypatch.setattr(cache, "IN_MEMORY", 500)
    monkeypatch.setattr(npz, "IN_MEMORY", 500)
    monkeypatch.setattr(npz, "_CHUNK_BYTES", 3 * 72)
    on_disk = open_dataset(f"npz:{path}")
    for one, other in zip(in_memory.read(None), on_disk.read(None)):
        assert np.array_equal(one.images, np.asarray(other.images))
    assert not isinstance(on_disk.read(None)[0].images, np.ndarray)
    assert on_disk.constants() == in_memory.constants()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: np.savez(path, a=[1]), r"arrays \['a'\].*`train_images`, `train_labels`"),
        (lambda path: np.savez(path, images=np.array([{}]), labels=[0]), "without objects"),
        (
            lambda path: np.savez(
                path, images=np.zeros((4, 2, 2), np.uint8), labels=[0, 1] * 2, class_names="cat"
            ),
            r"`class_names` in '.*set.npz' must have the shape \[classes\]. Received: \[\]",
        ),
        (lambda path: path.write_bytes(b"PK\x03\x04 broken"), "can't be read as arrays"),
        (lambda path: np.save(path.open("wb"), np.zeros(3)), "can't be read as arrays"),
        (lambda path: path.mkdir(), "can't be read as arrays"),
        (lambda path: None, "There is no file"),
    ],
)
def test_what_is_no_such_file(tmp_path, write, message):
    write(tmp_path / "set.npz")
    with pytest.raises(EnsembleError, match=message):
        open_dataset(f"npz:{tmp_path / 'set.npz'}")


def test_a_changed_file_is_not_what_a_run_was_trained_on(tmp_path, images):
    path, moved = tmp_path / "set.npz", tmp_path / "moved.npz"
    np.savez(path, images=images, labels=LABELS)
    constants = open_dataset(f"npz:{path}").constants()
    path.rename(moved)
    np.savez(path, images=images[::-1], labels=LABELS)
    assert "is not what the run was trained on" in error_of(reopen(constants).read, None)
    again, other = (reopen(constants, spec=f"npz:{each}") for each in (moved, path))
    assert (again.has_data_of(constants), other.has_data_of(constants)) == (True, False)
    # Other data are normalized as the run's were.
    assert other.normalization == again.normalization
    seen = DataOptions().load(again, 0).train.images
    assert len(seen) == round(0.9 * 16)
