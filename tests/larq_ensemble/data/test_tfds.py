"""Data sets of TensorFlow Datasets: a tiny one, written as its builders write them."""

import io
import types

import numpy as np
import pytest
from PIL import Image

from larq_ensemble.data.opening import images_as_input, open_dataset, reopen
from larq_ensemble.data.options import ImageOptions
from larq_ensemble.data.tfds import _keys
from larq_ensemble.errors import EnsembleError

tfds = pytest.importorskip("tensorflow_datasets")
SIZED = ImageOptions(image_size=(4, 4))


@pytest.fixture(scope="module")
def encoded():
    """JPEG files of several sizes."""
    random = np.random.default_rng(0)
    files = []
    for number in range(30):
        file = io.BytesIO()
        pixels = random.integers(0, 256, (6 + number % 2, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "jpeg")
        files.append(file.getvalue())
    return files


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, encoded):
    """A folder that holds `tiny_pets`, whose test split has no labels, and `tiny_numbers`."""

    def examples(start, stop, label):
        for number in range(start, stop):
            yield number, {"image": io.BytesIO(encoded[number]), **label(number)}

    class TinyPets(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "breed": tfds.features.ClassLabel(num_classes=7),
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            def label(number):
                return {"label": number % 2, "breed": 3}

            return {
                "train": examples(0, 20, label),
                "validation": examples(20, 26, label),
                "test": examples(26, 30, lambda number: {"label": -1, "breed": 0}),
            }

        def _generate_examples(self):
            raise NotImplementedError

    class TinyNumbers(TinyPets):
        def _info(self):
            features = {
                "photo": tfds.features.Image(shape=(7, 8, 3), encoding_format="jpeg"),
                "number": np.int64,
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {
                "train": (
                    (number, {"photo": io.BytesIO(encoded[number]), "number": number % 3})
                    for number in range(1, 30, 2)
                )
            }

    folder = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    for builder in (TinyPets, TinyNumbers):
        builder(data_dir=folder).download_and_prepare()
    return folder


def error_of(name, data_dir, images=SIZED):
    with pytest.raises(EnsembleError) as error:
        open_dataset(f"tfds:{name}", images=images, data_dir=str(data_dir))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_data_set_of_images(data_dir, encoded):
    with pytest.warns(UserWarning, match="'test' has no labels and is left out"):
        dataset = open_dataset("tfds:tiny_pets", images=SIZED, data_dir=str(data_dir))
    assert dataset.name == "tfds:tiny_pets"
    assert (dataset.class_names, dataset.input_shape) == (("cat", "dog"), (4, 4, 3))
    train, test = dataset.read(None)
    assert (len(train), len(test)) == (20, 6)

    def resized(data):
        with Image.open(io.BytesIO(data)) as image:
            side = min(image.size)
            left, top = ((length - side) / 2 for length in image.size)
            box = (left, top, left + side, top + side)
            return image.resize((4, 4), Image.Resampling.BILINEAR, box).tobytes()

    # The pixels are those that Pillow decodes, as on the device; TensorFlow's differ a little.
    number_of = {resized(data): number for number, data in enumerate(encoded)}
    numbers = [number_of[image.tobytes()] for image in np.asarray(train.images)]
    assert sorted(numbers) == list(range(20))
    assert [number % 2 for number in numbers] == train.labels.tolist()
    assert {number_of[image.tobytes()] for image in np.asarray(test.images)} == set(range(20, 26))
    constants = dataset.constants()
    assert constants["source"]["spec"] == "tfds:tiny_pets:1.0.0"
    again = reopen(constants)
    assert again.constants() == constants
    assert np.array_equal(again.read(str(data_dir))[0].labels, train.labels)


def test_numbers_are_classes_too_and_a_test_split_is_cut(data_dir):
    dataset = open_dataset("tfds:tiny_numbers:1.0.0", data_dir=str(data_dir))
    assert (dataset.class_names, dataset.input_shape) == (("0", "1", "2"), (7, 8, 3))
    train, test = dataset.read(None)
    assert np.bincount(train.labels).tolist() == [4, 4, 4]
    assert np.bincount(test.labels).tolist() == [1, 1, 1]
    _, images = images_as_input("tfds:tiny_numbers", (4, 4, 3), data_dir=str(data_dir))
    assert images.shape == (15, 4, 4, 3)


def test_the_names_that_a_data_set_says_are_checked(data_dir, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), np.uint8)
    labels = np.arange(8) % 2
    np.savez(tmp_path / "a.npz", images=images, labels=labels, class_names=["rose", "tulip"])
    constants = open_dataset(f"npz:{tmp_path / 'a.npz'}").constants()
    with pytest.raises(EnsembleError, match=r"other classes than the run.* 'cat', 'dog', 'rose'"):
        reopen(constants, spec="tfds:tiny_pets", data_dir=str(data_dir))
    np.savez(tmp_path / "b.npz", images=images, labels=np.arange(8) % 3, class_names=[*"abc"])
    constants = open_dataset(f"npz:{tmp_path / 'b.npz'}").constants()
    numbers = reopen(constants, spec="tfds:tiny_numbers", data_dir=str(data_dir))
    assert numbers.class_names == ("a", "b", "c")


def test_images_of_several_sizes_need_one(data_dir):
    message = error_of("tiny_pets", data_dir, ImageOptions())
    assert "'tfds:tiny_pets' differ in size: give `image_size=(64, 64)`" in message


def test_names_that_do_not_exist(data_dir, tmp_path):
    assert "has no 'tiny_petz'. Did you mean tiny_pets" in error_of("tiny_petz", data_dir)
    assert "only: 1.0.0" in error_of("tiny_pets:2.0.0", data_dir)
    assert f"'{tmp_path}' does not hold tiny_pets" in error_of("tiny_pets", tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert "'~no-such-user' does not exist" in error_of("tiny_pets", "~no-such-user")


def test_a_damaged_data_set(data_dir, tmp_path):
    for path in (data_dir / "tiny_pets/1.0.0").iterdir():
        folder = tmp_path / "tiny_pets/1.0.0"
        folder.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes()
        (folder / path.name).write_bytes(data[:-100] if "tfrecord" in path.name else data)
    assert "is damaged. Delete it" in error_of("tiny_pets", tmp_path)


@pytest.mark.parametrize(
    ("supervised", "expected"),
    [(None, ("image", "label")), (("left", "breed"), ("left", "breed"))],
)
def test_the_features_that_a_data_set_says_come_first(supervised, expected):
    images = dict.fromkeys(("image", "left"), tfds.features.Image())
    labels = dict.fromkeys(("label", "breed"), tfds.features.ClassLabel(num_classes=2))
    features = tfds.features.FeaturesDict({**images, **labels, "id": np.int64})
    info = types.SimpleNamespace(features=features, supervised_keys=supervised)
    assert _keys("some", info) == expected


@pytest.mark.parametrize(
    ("features", "listed"),
    [
        ({"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}, "Text"),
        ({"image": tfds.features.Image(), "boxes": tfds.features.Sequence(np.int64)}, "boxes"),
        (
            {
                "left": tfds.features.Image(),
                "right": tfds.features.Image(),
                "label": tfds.features.ClassLabel(num_classes=2),
            },
            "left (Image), right (Image), label (ClassLabel)",
        ),
        (
            {
                "image": tfds.features.Image(shape=(4, 4, 1), dtype=np.float32),
                "label": tfds.features.ClassLabel(num_classes=2),
            },
            "image (Image)",
        ),
    ],
)
def test_what_is_not_for_image_classification(features, listed):
    info = types.SimpleNamespace(
        features=tfds.features.FeaturesDict(features), supervised_keys=None
    )
    with pytest.raises(EnsembleError, match="not for image classification") as error:
        _keys("some", info)
    assert listed in str(error.value)
