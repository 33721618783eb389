"""Limits of sums against the floats that they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.convert.targets.c.plan import (
    Action,
    Add,
    BinaryConvolution,
    Clamp,
    Map,
    Multiply,
    PRelu,
    Store,
    Threshold,
    Value,
    Window,
)
from larq_ensemble.convert.targets.c.thresholds import with_thresholds
from larq_ensemble.convert.targets.c.values import Values

CHANNELS, TERMS = 6, 18


def by_member(*rows: list[float]) -> Value:
    return Value(np.array(rows, np.float32), "float32", "batch norm", by_member=True)


def step_of(*actions: Action) -> BinaryConvolution:
    filters = np.ones((CHANNELS, 3, 3, 2), np.float32)
    return BinaryConvolution(
        height=4,
        width=4,
        channels=CHANNELS,
        epilogue=(*actions, Store(Map(4, 4, CHANNELS, "signs", shared=False))),
        shared=False,
        layer="layer",
        input=Map(4, 4, 2, "signs", shared=False),
        filters=Value(filters, "signs", "binary filters"),
        window=Window(3, 3, top=1, left=1),
    )


def compared(step: BinaryConvolution) -> Threshold | None:
    # Nothing of the graph is needed for limits.
    (new,) = with_thresholds([step], Values(None))  # type: ignore[arg-type]
    return new.epilogue[0] if isinstance(new.epilogue[0], Threshold) else None


SCALES = by_member([1, -1, 0.5, -2, 0, 3], [0.1, 2, -0.1, 1, 1, -1])
OFFSETS = by_member([0, 0, 3.5, 4, -1, 100], [-0.3, -40, 0.5, 18, -18, 1e-9])
SLOPES = by_member([0.5] * CHANNELS, [0.25] * CHANNELS)


@pytest.mark.parametrize(
    "actions",
    [
        (Multiply(SCALES), Add(OFFSETS)),
        (PRelu(SLOPES), Multiply(SCALES), Add(OFFSETS)),
        (Clamp(0, 6), Multiply(SCALES), Add(OFFSETS)),
    ],
)
def test_a_limit_gives_the_sign_of_every_sum(actions: tuple[Action, ...]) -> None:
    threshold = compared(step_of(*actions))
    assert threshold is not None
    assert threshold.flips is not None
    for member in range(2):
        for total in range(-TERMS, TERMS + 1):
            x = np.full(CHANNELS, total, np.float32)
            for action in actions:
                if isinstance(action, Multiply):
                    x = x * action.value.data[member]
                elif isinstance(action, Add):
                    x = x + action.value.data[member]
                elif isinstance(action, PRelu):
                    x = np.where(x < 0, x * action.value.data[member], x)
                else:
                    x = np.clip(x, 0, 6)
            bits = (total < threshold.limits.data[member]) != (threshold.flips.data[member] < 0)
            np.testing.assert_array_equal(bits, x < 0)


def test_a_sign_that_changes_twice_stays_a_float() -> None:
    slopes = by_member([-1] * CHANNELS, [-1] * CHANNELS)
    offsets = by_member([-5] * CHANNELS, [-5] * CHANNELS)
    # Below -5 and above 5 it is positive.
    assert compared(step_of(PRelu(slopes), Add(offsets))) is None


def test_limits_that_take_more_bytes_stay_floats() -> None:
    one = Value(np.array([0.5], np.float32), "float32", "batch norm")
    assert compared(step_of(Add(one))) is None
