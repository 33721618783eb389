r"""Storage of an ensemble, counted from its layers: no weights, no TensorFlow.

\\[ \text{total} = \text{shared} + M \cdot \text{member} \\]

There are two counts, both in bits:

- the paper's (Table 1): weights of convolutions, shortcuts and linear layers, 1 bit for a binary
  weight and 32 bits for a real one. Batch norm, activation parameters, biases and scales don't
  count;
- what a device stores: these weights, and with 32 bits each the scale of each binary filter, batch
  norm folded to two values per channel, activation parameters and biases.

```python
from larq_ensemble.network.architectures import trace_model
from larq_ensemble.network.storage import account

account(trace_model("resnet20", classes=100), members=4).total_bits // 8  # bytes: 186800
```

# References
    - Kim et al. 2022, [PeerJ CS 8:e924](https://doi.org/10.7717/peerj-cs.924), Table 1.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from larq_ensemble.errors import EnsembleError, check_whole
from larq_ensemble.network.graph import Content, LayerGraph
from larq_ensemble.network.sharing import Sharing, has_own_head_bias, shared_layers

Key = TypeVar("Key", bound=Hashable)

PAPER_CONTENTS = frozenset({Content.BINARY_FILTER, Content.CONV, Content.LINEAR})


@dataclass(frozen=True)
class StoredPart:
    """The values of one content in one layer.

    # Arguments
        layer: name of the layer.
        content: what the values are for.
        bits: of all values.
        shared: whether they are stored once, or once for each member.
    """

    layer: str
    content: Content
    bits: int
    shared: bool

    @property
    def block(self) -> str:
        """The layer's name up to the first underscore."""
        return self.layer.partition("_")[0]


@dataclass(frozen=True)
class Size:
    """The size of a part of the network, in bits.

    # Arguments
        paper_bits: by the paper's count, in one network.
        shared_bits: stored once for all members.
        member_bits: stored for each member.
    """

    paper_bits: int
    shared_bits: int
    member_bits: int


@dataclass(frozen=True)
class StorageReport:
    """The storage of an ensemble, in bits.

    # Arguments
        members: M.
        parts: everything that a device stores.
    """

    members: int
    parts: tuple[StoredPart, ...]

    @property
    def blocks(self) -> dict[str, Size]:
        """The size of each block, by name, in the network's order."""
        return self._sizes(lambda part: part.block)

    @property
    def contents(self) -> dict[Content, Size]:
        """The size of each kind of content."""
        return self._sizes(lambda part: part.content)

    @property
    def size(self) -> Size:
        """The size of everything."""
        return _size(self.parts)

    @property
    def paper_bits(self) -> int:
        """One network by the paper's count: the sum of its Table 1."""
        return self.size.paper_bits

    @property
    def paper_total_bits(self) -> int:
        """The ensemble by the paper's count: shared weights once, the others M times."""
        shared = _size(part for part in self.parts if part.shared).paper_bits
        return shared + self.members * (self.paper_bits - shared)

    @property
    def shared_bits(self) -> int:
        """Everything that members share."""
        return self.size.shared_bits

    @property
    def member_bits(self) -> int:
        """Everything that is one member's own."""
        return self.size.member_bits

    @property
    def network_bits(self) -> int:
        """One network."""
        return self.shared_bits + self.member_bits

    @property
    def total_bits(self) -> int:
        """The ensemble."""
        return self.shared_bits + self.members * self.member_bits

    @property
    def separate_bits(self) -> int:
        """M networks that share nothing."""
        return self.members * self.network_bits

    def to_json(self) -> dict[str, Any]:
        """All counts, in bits, as plain data."""
        return {
            "members": self.members,
            "blocks": {name: asdict(size) for name, size in self.blocks.items()},
            "contents": {content.value: asdict(size) for content, size in self.contents.items()},
            "paper_bits": self.paper_bits,
            "paper_total_bits": self.paper_total_bits,
            "shared_bits": self.shared_bits,
            "member_bits": self.member_bits,
            "total_bits": self.total_bits,
            "separate_bits": self.separate_bits,
        }

    def _sizes(self, key: Callable[[StoredPart], Key]) -> dict[Key, Size]:
        groups: dict[Key, list[StoredPart]] = {}
        for part in self.parts:
            groups.setdefault(key(part), []).append(part)
        return {name: _size(parts) for name, parts in groups.items()}


def account(
    graph: LayerGraph,
    *,
    members: int,
    sharing: Sharing = "fusion",
    own_filters: bool = False,
) -> StorageReport:
    """Counts the storage of an ensemble.

    # Arguments
        graph: the backbone, of `larq_ensemble.network.architectures.trace_model`, or of a Keras
            model by `larq_ensemble.models.layer_graph`.
        members: M, at least 1.
        sharing: which layers members share, see `larq_ensemble.network.sharing.shared_layers`.
        own_filters: each member has its own binary filters, whatever `sharing` says, as with
            stochastic rounding. The scales of the filters stay shared.

    # Raises
        EnsembleError: for a member count below 1, for a sharing that the graph doesn't allow, or
            if `graph` is a Keras model.
    """
    members = check_whole("members", members, 1)
    if not isinstance(graph, LayerGraph):
        raise EnsembleError(
            "`graph` must be a LayerGraph: for a Keras model, give "
            f"`larq_ensemble.models.layer_graph(model)`. Received: {type(graph).__name__}."
        )
    if has_own_head_bias(sharing):
        graph = graph.with_head_bias_apart()
    shared = shared_layers(sharing, graph)
    return StorageReport(
        members,
        tuple(
            StoredPart(
                layer.name,
                stored.content,
                stored.total_bits,
                shared=layer.name in shared
                and not (own_filters and stored.content is Content.BINARY_FILTER),
            )
            for layer in graph
            for stored in layer.stored
        ),
    )


def compare_systems(
    graph: LayerGraph, real_valued: LayerGraph, *, members: int, sharing: Sharing = "fusion"
) -> dict[str, StorageReport]:
    """Counts the storage of the systems that the paper compares.

    - shared filters: this package's ensembles;
    - stochastic rounding: the same, but each member has its own binary filters;
    - BENN: M independent binarized networks;
    - real-valued: M independent networks with nothing binarized.

    # Arguments
        graph: the binarized backbone.
        real_valued: its real-valued twin.
        members, sharing: as for `account`.

    # Returns
        The reports, by the names above.
    """
    return {
        "shared filters": account(graph, members=members, sharing=sharing),
        "stochastic rounding": account(graph, members=members, sharing=sharing, own_filters=True),
        "BENN": account(graph, members=members, sharing="none"),
        "real-valued": account(real_valued, members=members, sharing="none"),
    }


def _size(parts: Iterable[StoredPart]) -> Size:
    parts = list(parts)
    return Size(
        paper_bits=sum(part.bits for part in parts if part.content in PAPER_CONTENTS),
        shared_bits=sum(part.bits for part in parts if part.shared),
        member_bits=sum(part.bits for part in parts if not part.shared),
    )
