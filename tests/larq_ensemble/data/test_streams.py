import numpy as np
import pytest

from larq_ensemble.data.splits import LazyImages
from larq_ensemble.data.streams import gatherer, reading
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf


class Failing(LazyImages):
    """Images of which the last can't be read."""

    def read(self, indices):
        if len(self) - 1 in indices:
            raise EnsembleError("'9.png' is gone: restore it.")
        return np.zeros((len(indices), *self.shape[1:]), np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_memory_mapped_arrays_are_read_where_they_are_asked_for(dtype, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 3, 2)).astype(dtype)
    images.tofile(tmp_path / "images")
    mapped = np.memmap(tmp_path / "images", dtype, "r", shape=images.shape)
    batches = tf.data.Dataset.from_tensor_slices([[9, 0, 3], [2, 2, 1]]).map(gatherer(mapped))
    assert batches.element_spec == tf.TensorSpec((None, 4, 3, 2), dtype)
    for batch, indices in zip(batches, ([9, 0, 3], [2, 2, 1])):
        assert np.array_equal(batch, images[indices])


def test_errors_of_reading_come_as_they_are():
    images = tf.data.Dataset.range(10).batch(2).map(gatherer(Failing((10, 2, 2, 1))))
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    training = images.map(lambda batch: (batch, tf.zeros(2)))
    for read in (lambda: list(images), lambda: model.fit(training, verbose=0)):
        with pytest.raises(EnsembleError, match=r"^'9\.png' is gone: restore it\.$"), reading():
            read()


def test_other_errors_stay():
    with pytest.raises(tf.errors.InvalidArgumentError), reading():
        tf.reshape(tf.zeros(3), [2])
