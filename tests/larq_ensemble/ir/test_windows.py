"""The geometry of convolutions: by hand, and by walking over a padded row of ones."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from larq_ensemble.ir.windows import Axis


def test_three_taps_over_five_pixels() -> None:
    axis = Axis(size=5, kernel=3, stride=2, dilation=1)
    assert (axis.extent, axis.missing, axis.padding) == (3, 2, (1, 1))
    taps, numbers = axis.kinds()
    inside = taps[numbers]
    np.testing.assert_array_equal(inside, [[0, 1, 1], [1, 1, 1], [1, 1, 0]])


def test_strides_that_leave_pixels_out() -> None:
    axis = Axis(size=4, kernel=1, stride=3, dilation=1)
    assert (axis.missing, axis.padding) == (0, (0, 0))
    assert Axis(size=6, kernel=1, stride=3, dilation=1).missing == -2


def test_height_and_width() -> None:
    height, width = Axis.both((1, 7, 9, 64), (8, 3, 5, 2), (1, 2), (4, 1))
    assert height == Axis(size=7, kernel=3, stride=1, dilation=4)
    assert width == Axis(size=9, kernel=5, stride=2, dilation=1)


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))
def test_taps_inside_are_those_that_meet_a_pixel(size, kernel, stride, dilation) -> None:
    axis = Axis(size, kernel, stride, dilation)
    row = np.pad(np.ones(size), axis.padding)
    taps, numbers = axis.kinds()
    assert len(numbers) == -(-size // stride)
    for output, number in enumerate(numbers):
        met = row[output * stride :][: axis.extent : dilation]
        np.testing.assert_array_equal(taps[number], met)
