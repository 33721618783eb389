import numpy as np
import pytest

from larq_ensemble.data import cache
from larq_ensemble.data.datasets import Dataset
from larq_ensemble.data.options import ImageOptions
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import tf

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 4, 6, 3), dtype=np.uint8)
LABELS = np.arange(20) % 3
PAIRS = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS))


def read(dataset):
    train, test = dataset.read(None)
    return np.asarray(train.images), train.labels, np.asarray(test.images), test.labels


@pytest.mark.parametrize(
    "pipeline",
    [
        PAIRS,
        PAIRS.batch(7),
        PAIRS.filter(lambda image, label: True),  # of unknown length
        PAIRS.map(lambda image, label: (image, label[tf.newaxis])).batch(3),
    ],
)
def test_pipelines_give_what_arrays_give(pipeline):
    expected = Dataset.from_arrays(IMAGES, LABELS)
    dataset = Dataset.from_tf_data(pipeline)
    assert dataset.normalization == expected.normalization
    assert dataset.has_data_of(expected.constants())
    for ours, theirs in zip(read(dataset), read(expected)):
        assert np.array_equal(ours, theirs)


def test_a_pipeline_is_read_once_to_disk_if_it_is_large(monkeypatch, cache_of_images):
    times = []

    def counted():
        times.append(1)
        yield from zip(IMAGES, LABELS)

    spec = (tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((), tf.int64))
    monkeypatch.setattr(cache, "IN_MEMORY", 200)
    before = set(cache_of_images.glob("*"))
    dataset = Dataset.from_tf_data(tf.data.Dataset.from_generator(counted, output_signature=spec))
    assert not isinstance(dataset.read(None)[0].images, np.ndarray)
    assert np.array_equal(read(dataset)[0], read(Dataset.from_arrays(IMAGES, LABELS))[0])
    assert (sum(times), set(cache_of_images.glob("*"))) == (1, before)


def test_images_of_several_sizes():
    def images():
        for number in range(12):
            yield np.full((3 + number, 5, 3), 20 * number, np.uint8), number % 2

    spec = (tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((), tf.int64))
    pipeline = tf.data.Dataset.from_generator(images, output_signature=spec)
    message = r"such as 3x5x3 and 4x5x3 .*give `image_size=\(64, 64\)`"
    with pytest.raises(EnsembleError, match=message):
        Dataset.from_tf_data(pipeline)
    options = ImageOptions(image_size=(4, 4), channels=1, test_share=0)
    (train, _) = Dataset.from_tf_data(pipeline, options=options).read(None)
    assert np.array_equal(train.images[:, 1, 2, 0], 20 * np.arange(12))


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        (PAIRS.repeat(), "are infinite: give them without `repeat`"),
        (PAIRS.take(0), "are empty"),
        (
            PAIRS.map(lambda x, y: (tf.cast(x, tf.float32), y)),
            r"float32.*`map\(.*tf.cast",
        ),
        (PAIRS.map(lambda x, y: (x, tf.one_hot(y, 3))), r"`labels.argmax\(axis=-1\)`"),
        (PAIRS.map(lambda x, y: (x, tf.one_hot(y, 3))).batch(5), r"`labels.argmax\(axis=-1\)`"),
        (PAIRS.map(lambda x, y: {"image": x, "label": y}), r"must be \(image, label\)"),
        (IMAGES, "must be a tf.data.Dataset. Received: ndarray"),
    ],
)
def test_what_is_no_such_pipeline(pipeline, message):
    with pytest.raises(EnsembleError, match=message):
        Dataset.from_tf_data(pipeline)
