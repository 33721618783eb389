"""The constraint by itself, and that it holds wherever weights change."""

from __future__ import annotations

import numpy as np

from larq_ensemble.constraints import AtLeast
from larq_ensemble.ensembles import build_ensemble
from larq_ensemble.keras import keras
from larq_ensemble.models import build_model
from larq_ensemble.models.keras_layers import KerasLayers
from larq_ensemble.network.architectures.deploynet import deploy_block
from larq_ensemble.network.architectures.resnet import resnet

from .conftest import CLASSES, SHAPE, images, labels

LEAST = np.float32(1e-3)


def test_the_constraint_is_elementwise() -> None:
    values = np.array([[-2.0, 0.0, 5e-4], [1e-3, 0.5, 3.0]], np.float32)
    expected = np.array([[1e-3, 1e-3, 1e-3], [1e-3, 0.5, 3.0]], np.float32)
    np.testing.assert_array_equal(AtLeast(1e-3)(values), expected)
    # Stacked weights are constrained like each of them.
    for row, constrained in zip(values, expected):
        np.testing.assert_array_equal(AtLeast(1e-3)(row), constrained)


def test_keras_finds_and_saves_the_constraint() -> None:
    read = keras.constraints.deserialize(keras.constraints.serialize(AtLeast(0.25)))
    assert isinstance(read, AtLeast)
    assert read.minimum == 0.25
    by_name = keras.constraints.get("at_least")
    assert isinstance(by_name, AtLeast)
    assert by_name.minimum == 1e-3


def backbone() -> keras.Model:
    """The blocks of DeployNet, two of them."""
    image = keras.Input(SHAPE)
    sizes = {"classes": CLASSES, "dropout": 0.0, "stages": (4,), "blocks": (2,)}
    return keras.Model(image, resnet(KerasLayers(), image, block=deploy_block, **sizes))


def scales(model: keras.Model, end: str) -> dict[str, np.ndarray]:
    """The scales of the batch norms whose names end with `end`, by name."""
    return {layer.name: layer.gamma.numpy() for layer in model.layers if layer.name.endswith(end)}


def assert_positive_before_signs(model: keras.Model, members: int) -> None:
    """Some scales must have reached the minimum, which shows that the constraint was needed."""
    before_signs = scales(model, "_bn1")
    assert len(before_signs) == 2 * members
    for name, values in before_signs.items():
        assert (values >= LEAST).all(), name
    assert any((values == LEAST).any() for values in before_signs.values())
    # The other batch norms have no constraint, and some of their scales became negative.
    assert any((values < 0).any() for values in scales(model, "_bn2").values())


def fit(model: keras.Model, **arguments) -> None:
    """Trains with steps so large that scales change their signs."""
    model.compile(keras.optimizers.Adam(0.5), **arguments)
    model.fit(images(16), labels(16), batch_size=4, epochs=2, verbose=0)


def test_deploynet_constrains_the_scales_before_signs() -> None:
    model = build_model("deploynet9", input_shape=SHAPE, classes=CLASSES, width=1 / 64)
    constraints = {
        layer.name: layer.gamma_constraint
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    }
    constrained = [name for name, constraint in constraints.items() if constraint]
    assert constrained == [name for name in constraints if name.endswith("_bn1")]
    assert len(constrained) == 7
    for name in constrained:
        assert isinstance(constraints[name], AtLeast)
        assert constraints[name].minimum == 1e-3


def test_scales_before_signs_stay_positive(tmp_path) -> None:
    """In training, with jitter and after loading."""
    single = backbone()
    fit(single, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert_positive_before_signs(single, 1)
    # A jitter of 3 changes the sign of a third of the scales.
    ensemble = build_ensemble(backbone(), 2, jitter=3.0)
    assert_positive_before_signs(ensemble, 2)
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.models.load_model(tmp_path / "ensemble.keras", compile=False)
    for name, values in scales(ensemble, "_bn1").items():
        np.testing.assert_array_equal(loaded.get_layer(name).gamma, values)
    fit(loaded)
    assert_positive_before_signs(loaded, 2)
