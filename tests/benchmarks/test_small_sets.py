"""The script's interval; its trainings are those of `pretrain` and `train`."""

from __future__ import annotations

import pytest

from .conftest import load


def test_the_interval_is_wilsons() -> None:
    interval = load("small_sets").interval
    # 50 of 100 by hand: z^2 = 3.8416, (0.5 + 0.019208) / 1.038416 -+ 1.96 sqrt(...) / 1.038416.
    assert interval(50.0, 100) == pytest.approx((40.383, 59.617), abs=1e-3)
    low, high = interval(100.0, 20)
    assert high == pytest.approx(100)
    assert low == pytest.approx(100 * 20 / (20 + 1.96**2))
