"""Which layers the members of an ensemble share.

A policy is data: the roles of the layers that members share. Shared layers are frozen; every other
layer is each member's own. These are the policies of the paper:

| policy | shared | each member's own |
|---|---|---|
| `fusion` | all convolutions | batch norm, activation parameters, linear layer |
| `all_frozen` | all convolutions, linear weights | batch norm, activation parameters, linear bias |
| `c1` | as `all_frozen` without the stem | + stem |
| `c2` | convolutions without the 1x1 shortcuts | + shortcuts, linear layer |
| `c3` | convolutions without the last of each block | + those, linear layer |
| `none` | nothing | everything |

All but `none` also share the other layers with weights of a few bits: hidden layers `QuantDense`,
and layers of one's own with quantized weights. The linear layer at the end is each member's own by
design, binary or not. A network may lack what tells two policies apart: `notes` says so.

The paper says that `all_frozen` and `c1` freeze the linear layer; in its authors' code each member
trains the bias, and so it does here.

In ReActNet the 1x1 convolutions of the shortcuts are binarized ("downsampling"). No policy of the
paper shares them, so `c2` equals `fusion` there. The thresholds of RSign and the shifts and slopes
of RPReLU are activation parameters. If each convolution has its own shortcut (Bi-Real Net,
ReActNet), a block of `c3` is two convolutions, see `LayerGraph.roles`.

# References
    - Kim et al. 2022, Fig. 7 and its configurations.
    - [Its code](https://github.com/analog75/ensemble_bnn).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Union

from larq_ensemble.errors import EnsembleError, UnknownNameError
from larq_ensemble.network.graph import LayerGraph, Role
from larq_ensemble.registry import Registry

Sharing = Union[str, "SharingPolicy", Iterable[str]]

#: Convolutions, and layers with quantized weights.
FILTERS = frozenset({Role.STEM, Role.SHORTCUT, Role.BLOCK_END, Role.CONV, Role.QUANTIZED})


@dataclass(frozen=True)
class SharingPolicy:
    """Shares the layers of some roles.

    # Arguments
        name: the policy's name.
        roles: the roles of the layers that members share.
        own_head_bias: whether each member has its own bias in a linear layer that is shared.
    """

    name: str
    roles: frozenset[Role]
    own_head_bias: bool = False

    def shared_layers(self, graph: LayerGraph) -> frozenset[str]:
        """The names of the layers that members share."""
        return frozenset(name for name, role in graph.roles.items() if role in self.roles)


POLICIES: Registry[SharingPolicy] = Registry("sharing")

for _policy in (
    SharingPolicy("fusion", FILTERS),
    SharingPolicy("all_frozen", FILTERS | {Role.HEAD}, own_head_bias=True),
    SharingPolicy("c1", FILTERS - {Role.STEM} | {Role.HEAD}, own_head_bias=True),
    SharingPolicy("c2", FILTERS - {Role.SHORTCUT}),
    SharingPolicy("c3", FILTERS - {Role.BLOCK_END}),
    SharingPolicy("none", frozenset()),
):
    POLICIES.register(_policy.name, _policy)


def shared_layers(sharing: Sharing, graph: LayerGraph) -> frozenset[str]:
    """The layers that members share.

    # Arguments
        sharing: a policy, its name, or names and regular expressions of the layers to share. A
            regular expression must match the whole name of a layer.
        graph: the backbone.

    # Returns
        The names of the shared layers that have weights.

    # Raises
        UnknownNameError: for a string that is no policy.
        EnsembleError: for an expression that is malformed or matches no layer, or for a function.
    """
    if isinstance(sharing, SharingPolicy):
        return sharing.shared_layers(graph)
    if isinstance(sharing, str):
        if sharing in POLICIES:
            return POLICIES[sharing].shared_layers(graph)
        raise UnknownNameError("sharing", sharing, POLICIES)
    if callable(sharing):
        raise EnsembleError(
            "`sharing` is a predicate on Keras layers, which needs a model: give what "
            "`larq_ensemble.models.graph.shared_layers` returns for it."
        )
    if not isinstance(sharing, Iterable):
        raise EnsembleError(
            "`sharing` must be a policy or its name, a list of layers' names, or a function of a "
            f"layer, got {sharing!r}."
        )
    with_weights = [layer.name for layer in graph if layer.stored]
    return frozenset(name for pattern in sharing for name in _matches(pattern, with_weights))


def notes(sharing: object, graph: LayerGraph) -> list[str]:
    """What may surprise about a policy for a network, in sentences.

    - It shares the same layers as another policy, because the network lacks layers of some role.
    - It leaves binary weights to each member: those of binarized shortcuts, as the paper does. The
      head is each member's own by design, and so are the ends of blocks in `c3`.

    # Arguments
        sharing: as for `shared_layers`; about anything but a policy or its name there are no notes.
        graph: the backbone.
    """
    policy = POLICIES[sharing] if isinstance(sharing, str) and sharing in POLICIES else sharing
    if not isinstance(policy, SharingPolicy) or not policy.roles:
        return []
    found = []
    equal = next(
        name
        for name, other in [*POLICIES.items(), (policy.name, policy)]
        if _shares_as(other, policy, graph)
    )
    if equal != policy.name:
        found.append(
            f"`sharing` {policy.name!r} shares the same layers as {equal!r} in this network."
        )
    own = [
        f"{layer.name!r} ({layer.binary_bits:,} bits)"
        for layer in graph
        if graph.roles[layer.name] is Role.DOWNSAMPLING and Role.DOWNSAMPLING not in policy.roles
    ]
    if own:
        found.append(
            f"`sharing` {policy.name!r} leaves the binary weights of shortcuts to each member, as "
            f"in the paper: {', '.join(own)}. To share them too, name the layers to share."
        )
    return found


def _shares_as(one: SharingPolicy, other: SharingPolicy, graph: LayerGraph) -> bool:
    """Whether two policies share the same weights of a network."""
    names = one.shared_layers(graph) ^ other.shared_layers(graph)
    return one.own_head_bias == other.own_head_bias and not any(
        graph[name].stored for name in names
    )


def has_own_head_bias(sharing: object) -> bool:
    """Whether members have their own bias in a linear layer that they share."""
    policy = POLICIES[sharing] if isinstance(sharing, str) and sharing in POLICIES else sharing
    return isinstance(policy, SharingPolicy) and policy.own_head_bias


def _matches(pattern: str, names: list[str]) -> list[str]:
    """The layer of that name, or all whose names match the regular expression."""
    if pattern in names:
        return [pattern]
    try:
        matches = [name for name in names if re.fullmatch(pattern, name)]
    except re.error as error:
        raise EnsembleError(
            f"`sharing` holds {pattern!r}, which is no regular expression: {error}."
        ) from error
    if not matches:
        raise EnsembleError(
            f"`sharing` holds {pattern!r}, which matches no layer with weights. "
            f"There are: {', '.join(names)}."
        )
    return matches


def binary_layers(graph: LayerGraph) -> frozenset[str]:
    """The names of the layers with binary filters, which stochastic rounding never shares."""
    return frozenset(layer.name for layer in graph if layer.binary)


def parse_sharing(text: str, *, own_head_bias: bool = True) -> Sharing:
    """Parses `sharing` of the command line: a policy's name, or `re:` and a regular expression.

    # Arguments
        text: the option's value.
        own_head_bias: `False` for an ensemble of before members had their own bias in a shared
            linear layer.
    """
    if text.startswith("re:"):
        return [text.removeprefix("re:")]
    if has_own_head_bias(text) and not own_head_bias:
        return replace(POLICIES[text], own_head_bias=False)
    return text
