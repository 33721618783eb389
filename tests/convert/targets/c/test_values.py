"""Numbers are stored in as few bits as hold them."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.convert.targets.c.lowering import _whole_numbers
from larq_ensemble.convert.targets.c.values import Values

from ....builder import normal

SHAPE = (1, 4, 3, 3, 2)


@pytest.fixture
def values() -> Values:
    # No constant of a graph is needed.
    return Values(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("numbers", "format", "size"),
    [
        (np.sign(normal(*SHAPE)), "signs", 9),
        (np.rint(100 * np.tanh(normal(*SHAPE))), "int8", 72),
        (np.rint(100 * normal(*SHAPE)) / 8, "float16", 144),
        (normal(*SHAPE), "float32", 288),
        (np.where(normal(*SHAPE) < 0, -1, 300), "float16", 144),
    ],
)
def test_filters_take_the_fewest_bits(
    values: Values, numbers: np.ndarray, format: str, size: int
) -> None:
    value = values.filters(numbers.astype(np.float32), "stem")
    assert (value.format, value.bytes) == (format, size)
    np.testing.assert_array_equal(value.data, numbers[0].astype(np.float32))


def test_equal_values_are_one(values: Values) -> None:
    one = values.vector(normal(2, 4), "batch norm")
    assert one.by_member
    assert values.vector(normal(2, 4), "activations") is one
    assert values.vector(normal(2, 4, seed=1), "batch norm") is not one


def test_a_vector_of_one_number_has_one_number(values: Values) -> None:
    assert values.vector(np.full((1, 64), 3.3, np.float32), "batch norm").data.shape == (1,)
    by_member = np.repeat(normal(2, 1), 64, axis=1)
    assert values.vector(by_member, "batch norm").data.shape == (2, 1)


def test_scaled_whole_numbers_are_found() -> None:
    scales = np.abs(normal(2, 4, seed=1))
    whole = np.random.default_rng(0).integers(-3, 4, (2, 4, 3, 3, 2)).astype(np.float32)
    whole[:, :, 0, 0, 0] = 1
    found, factors = _whole_numbers(whole * scales[..., np.newaxis, np.newaxis, np.newaxis])
    assert factors is not None
    np.testing.assert_array_equal(found, whole)
    np.testing.assert_allclose(factors, scales, rtol=1e-6)


def test_a_subnormal_weight_is_no_scale() -> None:
    filters = normal(1, 1, 1, 1, 2)
    filters[0, 0, 0, 0, 0] = 1e-40
    with np.errstate(all="raise"):
        _, factors = _whole_numbers(filters)
    assert factors is None


def test_other_filters_stay_as_they_are() -> None:
    filters = normal(1, 4, 3, 3, 2)
    found, factors = _whole_numbers(filters)
    assert factors is None
    assert found is filters
