"""Constraints hold wherever weights change: in training, with jitter, after loading."""

from __future__ import annotations

import numpy as np

from larq_ensemble.constraints import AtLeast
from larq_ensemble.ensembles import build_ensemble
from larq_ensemble.keras import keras
from larq_ensemble.models import build_model

from .conftest import images, labels

LEAST = np.float32(1e-3)


def test_each_weight_by_itself() -> None:
    values = np.array([[-2.0, 0.0, 5e-4], [1e-3, 0.5, 3.0]], np.float32)
    expected = np.array([[1e-3, 1e-3, 1e-3], [1e-3, 0.5, 3.0]], np.float32)
    np.testing.assert_array_equal(AtLeast(1e-3)(values), expected)
    # Stacked weights are constrained as each of them is.
    for row, constrained in zip(values, expected):
        np.testing.assert_array_equal(AtLeast(1e-3)(row), constrained)


def test_keras_writes_and_reads_it() -> None:
    read = keras.constraints.deserialize(keras.constraints.serialize(AtLeast(0.25)))
    assert isinstance(read, AtLeast)
    assert read.minimum == 0.25


def deploynet() -> keras.Model:
    return build_model("deploynet9", input_shape=(8, 8, 3), classes=3, width=1 / 16)


def scales(model: keras.Model, end: str) -> dict[str, np.ndarray]:
    """Of the batch norms whose names end so, by name."""
    return {layer.name: layer.gamma.numpy() for layer in model.layers if layer.name.endswith(end)}


def assert_positive_before_signs(model: keras.Model, members: int) -> None:
    """And that scales were stopped there, so it was the constraint that kept them."""
    before_signs = scales(model, "_bn1")
    assert len(before_signs) == 7 * members
    for name, values in before_signs.items():
        assert (values >= LEAST).all(), name
    assert any((values == LEAST).any() for values in before_signs.values())
    # Others have no constraint: the same steps made some of them negative.
    assert any((values < 0).any() for values in scales(model, "_bn2").values())


def fit(model: keras.Model, **arguments) -> None:
    """Steps so large that scales change their signs."""
    model.compile(keras.optimizers.Adam(0.5), **arguments)
    model.fit(images(16), labels(16), batch_size=4, epochs=2, verbose=0)


def test_scales_before_signs_stay_positive(tmp_path) -> None:
    backbone = deploynet()
    fit(backbone, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert_positive_before_signs(backbone, 1)
    # Jitter of 3 changes the sign of a third of the scales.
    ensemble = build_ensemble(deploynet(), 2, jitter=3.0)
    assert_positive_before_signs(ensemble, 2)
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.models.load_model(tmp_path / "ensemble.keras", compile=False)
    for name, values in scales(ensemble, "_bn1").items():
        np.testing.assert_array_equal(loaded.get_layer(name).gamma, values)
    fit(loaded)
    assert_positive_before_signs(loaded, 2)
