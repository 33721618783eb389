"""Targets: each makes a file for one inference engine. None needs TensorFlow."""

from __future__ import annotations

from larq_ensemble.errors import EnsembleError, UnknownNameError
from larq_ensemble.legalization import FILTERS
from larq_ensemble.runtime.metadata import TARGETS


def checked_filters(target: str, filters: str | None) -> str | None:
    """How a file for a target stores binary filters.

    # Arguments
        target: one of `TARGETS`.
        filters: one of `FILTERS`; `None`: the fastest of the target.

    # Returns
        What the file's metadata say: `None` for `"lce"`, which packs its filters in one way.

    # Raises
        UnknownNameError: for another name.
        EnsembleError: if the target leaves no choice.
    """
    if target not in TARGETS:
        raise UnknownNameError("target", target, TARGETS)
    if filters is not None and filters not in FILTERS:
        raise UnknownNameError("filters", filters, FILTERS)
    if target == "litert":
        return filters or FILTERS[0]
    if filters is not None:
        raise EnsembleError(
            f"`filters` {filters!r} needs `target='litert'`: a file for Larq Compute Engine packs "
            "its filters in one way."
        )
    return None
