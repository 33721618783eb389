"""A network as plain data: its layers, what feeds them, what they store.

The sharing policies and the storage accounting work on this description. It comes from the size
tracer (no TensorFlow, no weights) or from any functional Keras model, so both apply to networks
that this package has never seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property


class Kind(str, Enum):
    """What a layer does."""

    INPUT = "input"
    CONV = "conv"
    DENSE = "dense"
    NORM = "norm"
    ACTIVATION = "activation"
    MERGE = "merge"
    OTHER = "other"


class Role(str, Enum):
    """What a layer is for, as far as sharing is concerned."""

    STEM = "stem"
    SHORTCUT = "shortcut"
    DOWNSAMPLING = "downsampling"
    BLOCK_END = "block_end"
    CONV = "conv"
    HEAD = "head"
    OTHER = "other"


class Content(str, Enum):
    """What a stored value is."""

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
        return self.count * self.bits


@dataclass(frozen=True)
class LayerNode:
    """One layer.

    # Arguments
        name: unique in the network; the part before the first underscore names its block.
        kind: what it does.
        inputs: names of the layers that feed it.
        stored: what a device keeps of it.
        kernel_size: of a convolution, else empty.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...] = ()
    stored: tuple[Stored, ...] = ()
    kernel_size: tuple[int, ...] = ()

    @property
    def binary(self) -> bool:
        return any(item.content is Content.BINARY_FILTER for item in self.stored)

    @property
    def bits(self) -> int:
        return sum(item.total_bits for item in self.stored)


class LayerGraph:
    """The layers of a single-input, single-output network, in topological order.

    # Arguments
        layers: every layer after those that feed its first call.
    """

    def __init__(self, layers: Iterable[LayerNode]) -> None:
        self.layers = {layer.name: layer for layer in layers}

    def __iter__(self) -> Iterator[LayerNode]:
        return iter(self.layers.values())

    def __getitem__(self, name: str) -> LayerNode:
        return self.layers[name]

    @cached_property
    def roles(self) -> dict[str, Role]:
        """The role of each layer, by name, found from the graph alone.

        - head: the last dense layer;
        - stem: a convolution with no convolution before it;
        - shortcut: at an addition of two branches, the 1x1 convolutions that only the branch
          with fewer convolutions has; downsampling: those of them that are binarized;
        - block_end: the last convolution of the other branch. Where that branch is one
          convolution (Bi-Real Net, ReActNet) two such additions in a row make a block, as in a
          ResNet, and only the second has the block's end; a convolution on a shortcut begins
          another block, and one that is left over is a block by itself;
        - conv: every other convolution.
        """
        roles = {layer.name: Role.OTHER for layer in self}
        convs_before = self._convs_before()
        for layer in self:
            if layer.kind is Kind.CONV:
                roles[layer.name] = Role.CONV if convs_before[layer.name] else Role.STEM
        half_block = None
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
        dense = [layer.name for layer in self if layer.kind is Kind.DENSE]
        if dense:
            roles[dense[-1]] = Role.HEAD
        return roles

    def _convs_before(self) -> dict[str, dict[str, None]]:
        """For each layer the convolutions that its value depends on, itself excluded, in order."""
        before: dict[str, dict[str, None]] = {}
        for layer in self:
            found: dict[str, None] = {}
            for name in layer.inputs:
                # What feeds only a later call of a layer may come after it.
                found.update(before.get(name, {}))
                if self[name].kind is Kind.CONV:
                    found[name] = None
            before[layer.name] = found
        return before

    def _branches(
        self, merge: LayerNode, convs_before: dict[str, dict[str, None]]
    ) -> list[list[LayerNode]]:
        """The convolutions that only one branch of an addition has, of the shorter one first."""
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
