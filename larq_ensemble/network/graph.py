"""The layer graph: a network as data.

Sharing policies, storage and multiply-accumulates are computed from it.
`larq_ensemble.models.layer_graph` reads it from any functional Keras model.
`larq_ensemble.network.architectures.trace_model` makes it from an architecture's name, without
TensorFlow.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property


class Kind(str, Enum):
    """The type of a layer.

    Additions and concatenations of layers are a `MERGE`, the addition of a weight is a `BIAS`.
    """

    INPUT = "input"
    CONV = "conv"
    DENSE = "dense"
    BIAS = "bias"
    NORM = "norm"
    ACTIVATION = "activation"
    MERGE = "merge"
    OTHER = "other"


class Role(str, Enum):
    """What a layer is for; sharing policies select layers by role."""

    STEM = "stem"
    SHORTCUT = "shortcut"
    DOWNSAMPLING = "downsampling"
    BLOCK_END = "block_end"
    CONV = "conv"
    HEAD = "head"
    QUANTIZED = "quantized"
    OTHER = "other"


class Content(str, Enum):
    """What a stored value is for."""

    BINARY_FILTER = "binary_filter"
    FILTER_SCALE = "filter_scale"
    CONV = "conv"
    LINEAR = "linear"
    NORM = "norm"
    ACTIVATION = "activation"
    BIAS = "bias"
    OTHER = "other"


@dataclass(frozen=True)
class Stored:
    """`count` values of `bits` bits each, as a device stores them."""

    content: Content
    count: int
    bits: int

    @property
    def total_bits(self) -> int:
        """Bits of all values."""
        return self.count * self.bits


@dataclass(frozen=True)
class LayerNode:
    """One layer.

    # Arguments
        name: unique in the network; the part before the first underscore names its block.
        kind: what it does.
        inputs: names of its input layers, each once.
        stored: the values that a device stores for it.
        kernel_size: of a convolution, else empty.
        macs: multiply-accumulates of a convolution or dense layer for one image, over all its
            calls; `None` if the image size is unknown.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...] = ()
    stored: tuple[Stored, ...] = ()
    kernel_size: tuple[int, ...] = ()
    macs: int | None = 0

    @property
    def binary(self) -> bool:
        """Whether it has binary filters."""
        return self.binary_bits > 0

    @property
    def binary_bits(self) -> int:
        """The bits of its binary filters."""
        return sum(i.total_bits for i in self.stored if i.content is Content.BINARY_FILTER)

    @property
    def quantized(self) -> bool:
        """Whether it has weights of a few bits, binary or not."""
        return any(item.bits <= 8 for item in self.stored)

    @property
    def bits(self) -> int:
        """The bits that a device stores for it."""
        return sum(item.total_bits for item in self.stored)


def bias_name(layer: str) -> str:
    """The name of the layer that has the bias of another."""
    return f"{layer}_bias"


class LayerGraph:
    """The layers of a network with one input and one output, in topological order.

    # Arguments
        layers: each after the input layers of its first call.
    """

    def __init__(self, layers: Iterable[LayerNode]) -> None:
        self.layers = {layer.name: layer for layer in layers}

    def __iter__(self) -> Iterator[LayerNode]:
        return iter(self.layers.values())

    def __getitem__(self, name: str) -> LayerNode:
        return self.layers[name]

    @cached_property
    def roles(self) -> dict[str, Role]:
        """The role of each layer, by name. It follows from the graph, not from layer names.

        - head: the last layer with a kernel, which makes the logits: a dense layer or, as in
          Network in Network, a convolution before global pooling. Only layers without a kernel,
          such as batch norm, pooling and activations, come after it;
        - stem: a convolution with no convolution before it;
        - shortcut: a 1x1 convolution on the residual path. At an addition or concatenation of two
          branches, the branch with fewer own convolutions is the residual path;
        - downsampling: a shortcut that is binarized;
        - block_end: the last convolution of the other branch, the main path. Where the main path
          is a single convolution (Bi-Real Net, ReActNet, BinaryDenseNet), two additions in a row
          make a block, as in a ResNet, and only the second has the block's end. A convolution on
          the residual path starts a new block; an addition that is left over is a block by itself;
        - conv: every other convolution;
        - quantized: every other layer whose weights have a few bits, such as a hidden `QuantDense`
          or a layer of one's own with a quantized weight.
        """
        roles = {layer.name: Role.OTHER for layer in self}
        convs_before = self._convs_before()
        for layer in self:
            if layer.kind is Kind.CONV:
                roles[layer.name] = Role.CONV if convs_before[layer.name] else Role.STEM
            elif layer.quantized:
                roles[layer.name] = Role.QUANTIZED
        self._find_blocks(roles, convs_before)
        kernels = [layer.name for layer in self if layer.kind in (Kind.CONV, Kind.DENSE)]
        if kernels:
            roles[kernels[-1]] = Role.HEAD
        return roles

    def with_head_bias_apart(self) -> LayerGraph:
        """The same network with the bias of the head in a layer of its own behind it."""
        head = next((name for name, role in self.roles.items() if role is Role.HEAD), None)
        biases = self[head].stored if head else ()
        bias = tuple(item for item in biases if item.content is Content.BIAS)
        if head is None or not bias:
            return self
        behind = LayerNode(bias_name(head), Kind.BIAS, (head,), bias)
        layers: list[LayerNode] = []
        for layer in self:
            if layer.name == head:
                weights = tuple(item for item in layer.stored if item not in bias)
                layers += [replace(layer, stored=weights), behind]
            else:
                inputs = tuple(behind.name if name == head else name for name in layer.inputs)
                layers.append(replace(layer, inputs=inputs))
        return LayerGraph(layers)

    def independent_of(self, names: Collection[str]) -> frozenset[str]:
        """The layers that are neither among `names` nor depend on one of them."""
        found: set[str] = set()
        for layer in self:
            if layer.name not in names and found.issuperset(layer.inputs):
                found.add(layer.name)
        return frozenset(found)

    def _find_blocks(
        self, roles: dict[str, Role], convs_before: dict[str, dict[str, None]]
    ) -> None:
        """Sets the roles of shortcuts and of the last convolutions of blocks."""
        half_block = None  # The only convolution of a main path that may be half of a block.
        for layer in self:
            if layer.kind is not Kind.MERGE or len(layer.inputs) != 2:
                continue
            shortcut, main = self._branches(layer, convs_before)
            for conv in shortcut:
                if set(conv.kernel_size) == {1} and roles[conv.name] is Role.CONV:
                    roles[conv.name] = Role.DOWNSAMPLING if conv.binary else Role.SHORTCUT
            if not main or roles[main[-1].name] is not Role.CONV:
                continue
            end = main[-1].name
            roles[end] = Role.BLOCK_END
            if half_block and len(main) == 1 and not shortcut:
                roles[half_block] = Role.CONV
                half_block = None
            else:
                half_block = end if len(main) == 1 else None

    def _convs_before(self) -> dict[str, dict[str, None]]:
        """The convolutions before each layer, without the layer itself, in order."""
        before: dict[str, dict[str, None]] = {}
        for layer in self:
            found: dict[str, None] = {}
            for name in layer.inputs:
                # A layer that feeds only a later call may come after this one.
                found.update(before.get(name, {}))
                if self[name].kind is Kind.CONV:
                    found[name] = None
            before[layer.name] = found
        return before

    def _branches(
        self, merge: LayerNode, convs_before: dict[str, dict[str, None]]
    ) -> list[list[LayerNode]]:
        """Each branch's own convolutions where two meet, the residual path first."""
        branches = []
        for name in merge.inputs:
            convs = dict(convs_before[name])
            if self[name].kind is Kind.CONV:
                convs[name] = None
            branches.append(convs)
        own = [
            [self[name] for name in branch if name not in other]
            for branch, other in zip(branches, reversed(branches))
        ]
        return sorted(
            own, key=lambda convs: (len(convs), sum(math.prod(conv.kernel_size) for conv in convs))
        )
