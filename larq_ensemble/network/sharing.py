"""Which layers the members of an ensemble share.

The policies of the paper are data: the roles of the layers that are shared and frozen. Everything
else is each member's own.

| policy | shared | each member's own |
|---|---|---|
| `fusion` | all convolutions | batch norm, activation parameters, linear layer |
| `all_frozen` | all convolutions, linear layer | batch norm, activation parameters |
| `c1` | as `all_frozen` without the stem | + stem |
| `c2` | convolutions without the 1x1 shortcuts | + shortcuts, linear layer |
| `c3` | convolutions without the last of each block | + those, linear layer |
| `none` | nothing | everything |

In ReActNet the 1x1 convolutions of the shortcuts are binarized ("downsampling"). No policy of the
paper shares those: they are each member's own, as are the thresholds of RSign and the shifts and
slopes of RPReLU, which are activation parameters. So there `c2` shares what `fusion` does. Where
each convolution has a shortcut of its own (Bi-Real Net, ReActNet), a block of `c3` is two of them;
`LayerGraph.roles` has the rule.

# References
    - Kim et al. 2022, Fig. 8 and its configurations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

from larq_ensemble.errors import EnsembleError, UnknownNameError
from larq_ensemble.network.graph import LayerGraph, Role
from larq_ensemble.registry import Registry

if TYPE_CHECKING:
    from larq_ensemble.keras import keras

Sharing = Union[str, "SharingPolicy", Iterable[str], Callable[["keras.layers.Layer"], bool]]

CONVOLUTIONS = frozenset({Role.STEM, Role.SHORTCUT, Role.BLOCK_END, Role.CONV})


@dataclass(frozen=True)
class SharingPolicy:
    """Shares the layers of certain roles.

    # Arguments
        name: how users call it.
        roles: the roles of shared layers.
        description: one line for help texts.
    """

    name: str
    roles: frozenset[Role]
    description: str

    def shared_layers(self, graph: LayerGraph) -> frozenset[str]:
        """Names of the layers that members share."""
        return frozenset(name for name, role in graph.roles.items() if role in self.roles)


POLICIES: Registry[SharingPolicy] = Registry("sharing")

for _policy in (
    SharingPolicy("fusion", CONVOLUTIONS, "share every convolution"),
    SharingPolicy(
        "all_frozen", CONVOLUTIONS | {Role.HEAD}, "share every convolution and the linear layer"
    ),
    SharingPolicy(
        "c1", CONVOLUTIONS - {Role.STEM} | {Role.HEAD}, "as all_frozen, but with a stem each"
    ),
    SharingPolicy("c2", CONVOLUTIONS - {Role.SHORTCUT}, "as fusion, but with 1x1 shortcuts each"),
    SharingPolicy(
        "c3", CONVOLUTIONS - {Role.BLOCK_END}, "as fusion, but with each block's last convolution"
    ),
    SharingPolicy("none", frozenset(), "share nothing: independent networks"),
):
    POLICIES.register(_policy.name, _policy)


def shared_layers(
    sharing: Sharing, graph: LayerGraph, model: keras.Model | None = None
) -> frozenset[str]:
    """Resolves what a user gave as `sharing` to names of layers.

    # Arguments
        sharing: a policy or its name; or names and regular expressions of the layers to share,
            each of which must match a whole layer name; or a predicate on Keras layers.
        graph: the layers of the backbone.
        model: the backbone itself, for predicates.

    # Returns
        The names of the shared layers that hold weights.

    # Raises
        UnknownNameError: for a string that is no policy.
        EnsembleError: for an expression that is malformed or matches no layer.
    """
    if isinstance(sharing, SharingPolicy):
        return sharing.shared_layers(graph)
    if isinstance(sharing, str):
        if sharing in POLICIES:
            return POLICIES[sharing].shared_layers(graph)
        raise UnknownNameError("sharing", sharing, POLICIES)
    storing = [layer.name for layer in graph if layer.stored]
    if callable(sharing):
        if model is None:
            raise EnsembleError("`sharing` is a predicate on Keras layers, which needs a model.")
        return frozenset(name for name in storing if sharing(model.get_layer(name)))
    shared: set[str] = set()
    for pattern in sharing:
        try:
            matches = {name for name in storing if re.fullmatch(pattern, name)}
        except re.error as error:
            raise EnsembleError(
                f"`sharing` holds {pattern!r}, which is no regular expression: {error}."
            ) from error
        if not matches:
            raise EnsembleError(
                f"`sharing` holds {pattern!r}, which matches no layer with weights. "
                f"There are: {', '.join(storing)}."
            )
        shared |= matches
    return frozenset(shared)


def binary_layers(graph: LayerGraph) -> frozenset[str]:
    """Names of the layers with binary filters, which stochastic rounding never shares."""
    return frozenset(layer.name for layer in graph if layer.binary)


def parse_sharing(text: str) -> Sharing:
    """What the command line takes for `sharing`: a policy's name, or `re:` and an expression."""
    return [text.removeprefix("re:")] if text.startswith("re:") else text
