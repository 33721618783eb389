"""The number of members that a budget allows: a power mode or a latency."""

from __future__ import annotations

from typing import Any

from larq_ensemble.errors import EnsembleError, is_real
from larq_ensemble.registry import Registry

#: Power mode -> share of the members to run. The names are those of Linux's power profiles.
#: `balanced` is half, because the first half of the members brings most of the gain in accuracy.
POWER_MODES: Registry[float] = Registry("power mode")
POWER_MODES.register("power-saver", 0.0)
POWER_MODES.register("balanced", 0.5)
POWER_MODES.register("performance", 1.0)


def members_for_power(power_mode: str, total: int) -> int:
    """The number of members for a power mode: `ceil(share * total)`, at least 1.

    # Arguments
        power_mode: a name of `POWER_MODES`.
        total: M, the number of members in the file.

    # Raises
        UnknownNameError: for an unknown mode.
    """
    share = POWER_MODES[power_mode]
    return max(1, -int(-share * total // 1))


def members_for_latency(
    max_latency_ms: float, member_ms: float, total: int, image_ms: float = 0
) -> int:
    """The number of members that run within a latency per image, from 1 to `total`.

        members = floor((max_latency_ms - image_ms) / member_ms)

    # Arguments
        max_latency_ms: the latency allowed per image, in milliseconds; infinity allows all.
        member_ms: time of one member on this device, in milliseconds.
        total: M, the number of members in the file.
        image_ms: time of the shared trunk, in milliseconds.

    # Raises
        EnsembleError: if `max_latency_ms` is not a positive number.
    """
    check_latency(max_latency_ms)
    left = max_latency_ms - image_ms
    # Compared before dividing: `left` may be infinite, and `member_ms` 0 on a coarse clock.
    if left >= total * member_ms:
        return total
    return max(1, int(left // member_ms)) if left > 0 else 1


def check_latency(max_latency_ms: Any) -> None:
    """Raises `EnsembleError` if a latency is not a positive number, or infinite."""
    if not is_real(max_latency_ms) or not max_latency_ms > 0:
        raise EnsembleError(
            f"`max_latency_ms` must be a positive number. Received: {max_latency_ms!r}."
        )
