"""Compares integers where a binary convolution is scaled and shifted only to become signs.

    sum -> Multiply -> Add -> PRelu -> store its sign        becomes        sum < limit

for each channel and member. The sums are small integers, so the sign is computed here for all of
them, as the program would, in float32: the limit is exact.

Left alone: maps that are added, or stored as floats; channels whose sign changes more than once
(PReLU with a negative slope); values that take fewer bytes than the limits.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from larq_ensemble.convert.targets.c.plan import (
    Action,
    Add,
    BinaryConvolution,
    Clamp,
    Multiply,
    PRelu,
    Step,
    Store,
    Threshold,
    Value,
)
from larq_ensemble.convert.targets.c.values import Values

_LARGEST = np.iinfo(np.int16).max


def with_thresholds(steps: Sequence[Step], values: Values) -> list[Step]:
    """The steps with thresholds where the network allows."""
    uses = Counter(value for step in steps for value in step.values)
    return [_compared(step, values, uses) for step in steps]


def _compared(step: Step, values: Values, uses: Counter[Value]) -> Step:
    if not isinstance(step, BinaryConvolution):
        return step
    *actions, last = step.epilogue
    if not isinstance(last, Store) or last.map.format != "signs" or last.channel:
        return step
    numbers = [
        action.value
        for action in actions
        if isinstance(action, Multiply | Add | PRelu) and isinstance(action.value, Value)
    ]
    if len(numbers) + sum(isinstance(action, Clamp) for action in actions) < len(actions):
        return step
    found = _limits(step, actions, max([1, *map(_rows, numbers)]))
    if found is None:
        return step
    limits, flips = found
    signs = values.signs(np.where(flips, -1, 1).astype(np.float32), "batch norm")
    threshold = Threshold(last.map, values.thresholds(limits), signs if flips.any() else None)
    after = threshold.limits.bytes + (threshold.flips.bytes if threshold.flips else 0)
    before = sum(value.bytes for value in set(numbers) if uses[value] == numbers.count(value))
    # An epilogue without numbers is the comparison with 0.
    if after > before and (numbers or threshold.limits.data.size > 1):
        return step
    return dataclasses.replace(step, epilogue=(threshold,))


def _rows(value: Value) -> int:
    return len(value.data) if value.by_member else 1


def _limits(
    step: BinaryConvolution, actions: Sequence[Action], rows: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """The limits and where bits are flipped, int16 and bool `[rows, channels]`.

    # Returns
        `None` if a sign changes more than once.
    """
    terms = step.filters.data[0, 0].size if step.filters.by_member else step.filters.data[0].size
    if terms >= _LARGEST:
        return None
    sums = np.arange(-terms, terms + 1, dtype=np.float32)
    found = [
        _of_member(_is_negative(step.channels, actions, row, sums), terms) for row in range(rows)
    ]
    if any(one is None for one in found):
        return None
    limits, flips = zip(*found, strict=True)
    return np.stack(limits), np.stack(flips)


def _is_negative(
    channels: int, actions: Sequence[Action], row: int, sums: np.ndarray
) -> np.ndarray:
    """Whether what becomes of each sum is below 0, bool `[channels, sums]`."""
    x = np.broadcast_to(sums, (channels, sums.size))
    for action in actions:
        x = _acted(x, action, row)
    return x < 0


def _acted(x: np.ndarray, action: Action, row: int) -> np.ndarray:
    if isinstance(action, Clamp):
        return np.clip(x, action.low, action.high)
    assert isinstance(action, Multiply | Add | PRelu)
    value = action.value
    assert isinstance(value, Value)
    numbers = (value.data[row] if value.by_member else value.data)[:, np.newaxis]
    if isinstance(action, Multiply):
        return x * numbers
    if isinstance(action, Add):
        return x + numbers
    return np.where(x < 0, x * numbers, x)


def _of_member(bits: np.ndarray, terms: int) -> tuple[np.ndarray, np.ndarray] | None:
    if (np.diff(bits, axis=1).sum(axis=1) > 1).any():
        return None
    # Set from the lowest sum up to the limit, or from the limit on.
    flips = ~bits[:, 0] & bits[:, -1]
    count = np.where(flips, (~bits).sum(axis=1), bits.sum(axis=1))
    return (count - terms).astype(np.int16), flips
