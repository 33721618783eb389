"""From a power mode or a latency to a number of members."""

from __future__ import annotations

import math

import numpy as np
import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.budget import members_for_latency, members_for_power


@pytest.mark.parametrize(
    ("total", "expected"), [(1, (1, 1, 1)), (4, (1, 2, 4)), (5, (1, 3, 5)), (10, (1, 5, 10))]
)
def test_members_of_each_power_mode(total: int, expected: tuple[int, int, int]) -> None:
    modes = ("power-saver", "balanced", "performance")
    assert tuple(members_for_power(mode, total) for mode in modes) == expected


@pytest.mark.parametrize("mode", ["turbo", 3, None])
def test_unknown_power_modes_are_refused(mode: object) -> None:
    with pytest.raises(EnsembleError, match=r"Unknown power mode .*balanced, performance, power"):
        members_for_power(mode, 4)


@pytest.mark.parametrize(
    ("budget", "expected"), [(0.1, 1), (2, 1), (3.9, 1), (4, 2), (7, 3), (8, 4), (1e9, 4)]
)
def test_members_within_a_latency(budget: float, expected: int) -> None:
    assert members_for_latency(budget, 2.0, 4) == expected


@pytest.mark.parametrize(("budget", "expected"), [(0.5, 1), (4.9, 1), (5, 2), (9, 4), (99, 4)])
def test_the_trunk_counts_once(budget: float, expected: int) -> None:
    assert members_for_latency(budget, 2.0, 4, image_ms=1.0) == expected


@pytest.mark.parametrize(
    "budget", [math.inf, 1e308, np.float32(math.inf), np.float64(9), np.int8(9)]
)
def test_a_budget_that_all_fit_in_allows_all(budget: float) -> None:
    for member_ms in (2.0, 1e-9):
        assert members_for_latency(budget, member_ms, 4, image_ms=1.0) == 4


def test_a_clock_too_coarse_for_a_member_allows_all() -> None:
    assert members_for_latency(1e-3, 0.0, 4) == 4
    assert members_for_latency(5.0, 0.0, 4, image_ms=5.0) == 4
    assert members_for_latency(1.0, 0.0, 4, image_ms=5.0) == 1  # the trunk alone takes longer


@pytest.mark.parametrize(
    "budget", [0, -1.0, float("nan"), -math.inf, "5", True, None, np.float32("nan"), np.zeros(2)]
)
def test_bad_latencies_are_refused(budget: object) -> None:
    with pytest.raises(EnsembleError, match=r"`max_latency_ms` must be a positive.*Received"):
        members_for_latency(budget, 2.0, 4)
