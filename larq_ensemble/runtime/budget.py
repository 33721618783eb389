"""How many members a budget allows: the one place where a power mode or a time becomes a number."""

from __future__ import annotations

from larq_ensemble.errors import EnsembleError
from larq_ensemble.registry import Registry

#: Power mode -> share of the members that answer, at least one. The names are those of Linux's
#: power profiles; `balanced` is half, because the first half of the members brings most of what
#: all of them bring.
POWER_MODES: Registry[float] = Registry("power mode")
POWER_MODES.register("power-saver", 0.0)
POWER_MODES.register("balanced", 0.5)
POWER_MODES.register("performance", 1.0)


def members_for_power(power_mode: str, total: int) -> int:
    """The members that answer in a power mode: `ceil(share * total)`, at least 1.

    # Raises
        UnknownNameError: for a mode that isn't known.
    """
    share = POWER_MODES[power_mode]
    return max(1, -int(-share * total // 1))


def members_for_latency(
    max_latency_ms: float, member_ms: float, total: int, image_ms: float = 0
) -> int:
    """The members that fit into a time an image, at least 1 and at most `total`.

    # Arguments
        max_latency_ms: the time, in milliseconds.
        member_ms: what one member takes on this device, in milliseconds.
        total: how many members there are.
        image_ms: what is computed once an image for all members takes.

    # Raises
        EnsembleError: if `max_latency_ms` is not a positive number.
    """
    if (
        isinstance(max_latency_ms, bool)
        or not isinstance(max_latency_ms, (int, float))
        or not max_latency_ms > 0
    ):
        raise EnsembleError(
            f"`max_latency_ms` must be a positive number. Received: {max_latency_ms!r}."
        )
    return int(min(max(1, (max_latency_ms - image_ms) // member_ms), total))
