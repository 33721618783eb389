"""A comparison per channel decides as PReLU, batch norm and sign do."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.convert.frontend.thresholds import LARGEST_THRESHOLD, comparison
from larq_ensemble.convert.inspection import inspect_file
from larq_ensemble.keras import keras

from ..conftest import assert_members_agree, converted, pixels, small_ensemble


def original(x: np.ndarray, scale: float, offset: float, slope: float) -> np.ndarray:
    """Signs as the network computes them, in float64."""
    return scale * np.where(x >= 0, x, slope * x) + offset >= 0


@pytest.mark.parametrize(
    ("scale", "offset", "slope"),
    [
        *itertools.product(
            [2.0, 0.125, -1.0, -0.5], [0.0, -0.0, 1.0, -1.0, 0.25], [0.0, 0.25, 1.0, 2.0]
        )
    ],
)
def test_decides_as_the_original(scale: float, offset: float, slope: float) -> None:
    """Powers of two, so that inputs lie exactly on thresholds."""
    levels = -offset / scale * np.array([1, 4, 0.5, -1])
    near = np.concatenate([levels, np.nextafter(levels, 9), np.nextafter(levels, -9)])
    near = near[np.abs(near) > 1e-300]  # the original's products are rounded to zero below
    x = np.concatenate([near, [0.0, -0.0, 1e-30, -1e-30, 50_000, -50_000], np.linspace(-8, 8, 65)])
    direction, summand = comparison(np.array([scale]), np.array([offset]), np.array([slope]))
    assert abs(summand[0]) <= LARGEST_THRESHOLD
    np.testing.assert_array_equal(
        direction * x + summand >= 0, original(x, scale, offset, slope), err_msg=f"{x}"
    )


def test_random_values() -> None:
    draw = np.random.default_rng(0)
    scale, offset = draw.normal(0, 1, (2, 500))
    slope = np.maximum(draw.normal(0.2, 0.2, 500), 0)
    x = draw.normal(0, 3, (400, 500))
    direction, summand = (part.astype(np.float32) for part in comparison(scale, offset, slope))
    ours = direction * x.astype(np.float32) + summand >= 0
    same = ours == original(x, scale, offset, slope)
    assert same.mean() > 0.99999
    # Float32 can only err where the input is at the threshold.
    assert (np.abs(x + direction * summand)[~same] < 1e-5 * np.maximum(np.abs(x[~same]), 1)).all()


@pytest.fixture(scope="module")
def built() -> tuple[keras.Model, list[np.ndarray]]:
    """Two members, and the weights that they have."""
    model = small_ensemble(2)
    return model, model.get_weights()


@pytest.fixture
def model(built: tuple[keras.Model, list[np.ndarray]]) -> keras.Model:
    """Two members, whose weights a test may change."""
    model, weights = built
    model.set_weights(weights)
    return model


def with_slopes(model: keras.Model, slope) -> keras.Model:
    for layer in model.layers:
        if isinstance(layer, keras.layers.PReLU):
            layer.alpha.assign(np.full(layer.alpha.shape, slope(layer.name)))
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(np.abs(layer.gamma.numpy()) + 0.1)
    return model


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_a_prelu_goes_into_the_threshold(slope: float, model: keras.Model, tmp_path: Path) -> None:
    case = converted(with_slopes(model, lambda name: slope), tmp_path)
    assert_members_agree(case, pixels(40, (16, 16, 3)))
    report = inspect_file(case.path)
    # Of the three PReLUs of a block the first has nothing but a batch norm and a sign behind it.
    assert report.ops["PRELU"] == 2 * 2
    assert report.metadata["rewrites"]["threshold_norms"] == 4
    assert report.metadata["rewrites"]["threshold_prelus"] == 2


def test_falling_slopes_stay(model: keras.Model, tmp_path: Path) -> None:
    """One member's slope is negative in one block: that PReLU is computed as before."""
    with_slopes(model, lambda name: -0.2 if name == "member_1_layer1_0_prelu1" else 0.2)
    case = converted(model, tmp_path)
    assert_members_agree(case, pixels(40, (16, 16, 3)))
    report = inspect_file(case.path)
    assert report.ops["PRELU"] == 2 * 2 + 1
    assert report.metadata["rewrites"]["threshold_prelus"] == 1


def test_negative_scales_turn_the_comparison(model: keras.Model, tmp_path: Path) -> None:
    with_slopes(model, lambda name: 0.2)
    for member in range(2):
        gamma = model.get_layer(f"member_{member}_layer1_0_bn2").gamma
        gamma.assign(gamma.numpy() * np.where(np.arange(8) % 3 == member, -1, 1))
    case = converted(model, tmp_path)
    assert_members_agree(case, pixels(40, (16, 16, 3)))
    report = inspect_file(case.path)
    assert report.ops["PRELU"] == 2 * 2
    assert report.metadata["rewrites"]["threshold_prelus"] == 2


def test_compact_values_keep_the_prelu(model: keras.Model, tmp_path: Path) -> None:
    """Thresholds of members lie too far apart there for a few bits per value."""
    case = converted(with_slopes(model, lambda name: 0.2), tmp_path, precision="compact")
    assert inspect_file(case.path).ops["PRELU"] == 3 * 2
