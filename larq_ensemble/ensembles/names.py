"""Names in an ensemble: those of its outputs, and of the members' own layers."""

from __future__ import annotations

#: The output that combines all members.
ENSEMBLE_OUTPUT = "ensemble"


def member_output(member: int) -> str:
    """The output that holds a member's logits."""
    return f"member_{member}"


def first_output(count: int) -> str:
    """The output that combines the first `count` members."""
    return f"first_{count}"


def own_name(member: int, layer: str) -> str:
    """A member's own copy of a layer of the backbone."""
    return f"member_{member}_{layer}"
