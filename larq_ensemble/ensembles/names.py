"""Names in an ensemble: those of its outputs, and of the members' own layers."""

from __future__ import annotations

import re
from collections.abc import Collection

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


def kept_name(layer: str, names: Collection[str]) -> str:
    """A layer of the backbone that all members use: it keeps its name.

    Where that is a name as above, such as `ensemble` or `member_0_conv`, `shared_` comes before it.

    # Arguments
        names: those of all layers of the backbone.
    """
    if not re.fullmatch(rf"{ENSEMBLE_OUTPUT}|member_\d+(_.*)?|first_\d+", layer, re.DOTALL):
        return layer
    kept = f"shared_{layer}"
    while kept in names:
        kept = f"shared_{kept}"
    return kept
