"""Keeps members' numbers in the few bits that the precision `"compact"` gave them.

A step that reads such a number a channel, or a sum of some, gets it from a `Vector` that runs right
before it. A number alone is always smaller so. For the sums it is decided once, by their bytes in
flash: terms have four bits a member and two half floats, which many sums share, and a sum is a
float32 a member.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from larq_ensemble.convert.targets.c.plan import (
    Action,
    Add,
    Map,
    Multiply,
    PRelu,
    Step,
    Store,
    Term,
    Value,
    Vector,
)

Terms = Mapping[Value, Sequence[Term]]


def unpack(steps: Sequence[Step], terms: Terms) -> list[Step]:
    """The steps with vectors.

    # Arguments
        terms: of some of the values, the compact numbers that they consist of.
    """
    used = {value: terms[value] for step in steps for value in step.values if value in terms}
    sums = {value: parts for value, parts in used.items() if len(parts) > 1}
    if _bytes_of_terms(used) > _bytes_of_terms(used, without=sums) + sum(v.bytes for v in sums):
        used = {value: parts for value, parts in used.items() if value not in sums}
    return [new for step in steps for new in _with_vectors(step, used)]


def _bytes_of_terms(terms: Terms, without: Terms | None = None) -> int:
    parts = {
        part
        for value, several in terms.items()
        if value not in (without or {})
        for term in several
        for part in (term.steps, term.factor, term.middle)
    }
    return sum(part.bytes for part in parts)


def _with_vectors(step: Step, terms: Terms) -> list[Step]:
    """A step, and before it what computes its vectors."""
    vectors = {
        value: Vector(
            height=1,
            width=1,
            channels=max(term.steps.data.shape[-1] for term in terms[value]),
            epilogue=(Store(_map(value, terms[value])),),
            shared=False,
            layer=step.layer,
            terms=tuple(terms[value]),
        )
        for value in step.values
        if value in terms
    }
    maps = {value: next(vector.writes) for value, vector in vectors.items()}
    epilogue = tuple(_reading(action, maps) for action in step.epilogue)
    return [*vectors.values(), dataclasses.replace(step, epilogue=epilogue)]


def _map(value: Value, terms: Sequence[Term]) -> Map:
    channels = max(term.steps.data.shape[-1] for term in terms)
    return Map(1, 1, channels, "float32", shared=False, name=value.name)


def _reading(action: Action, maps: Mapping[Value, Map]) -> Action:
    if isinstance(action, Multiply | Add | PRelu) and action.value in maps:
        return dataclasses.replace(action, value=maps[action.value])  # type: ignore[index]
    return action
