"""What the bytes of a file are for: the same names for a file and for its lower bound."""

from __future__ import annotations

from enum import Enum

from larq_ensemble.network.graph import Content, Kind, LayerNode, Role


class Category(str, Enum):
    """What a constant is for, or a part of the file that is none; in the order of reports.

    Only files for stock runtimes have `BORDERS`, what convolutions of zero-padded maps add at the
    borders, and `UNPACKING`, the tables by which bits become filters.
    """

    BINARY_FILTERS = "binary_filters"
    FILTER_PADDING = "filter_padding"
    FILTER_SCALES = "filter_scales"
    BORDERS = "borders"
    UNPACKING = "unpacking"
    UNPACKED_FILTERS = "unpacked_filters"
    STEM = "stem"
    SHORTCUTS = "shortcuts"
    CONVOLUTIONS = "convolutions"
    BATCH_NORM = "batch_norm"
    ACTIVATIONS = "activations"
    HEADS = "heads"
    OTHER = "other"
    METADATA = "metadata"
    GRAPH = "graph"


_KINDS = {
    Kind.CONV: Category.CONVOLUTIONS,
    Kind.NORM: Category.BATCH_NORM,
    Kind.ACTIVATION: Category.ACTIVATIONS,
    Kind.DENSE: Category.HEADS,
    Kind.BIAS: Category.HEADS,
}
_ROLES = {
    Role.STEM: Category.STEM,
    Role.SHORTCUT: Category.SHORTCUTS,
    Role.DOWNSAMPLING: Category.SHORTCUTS,
    Role.HEAD: Category.HEADS,
}
_CONTENTS: dict[Content | None, Category] = {
    Content.BINARY_FILTER: Category.BINARY_FILTERS,
    Content.FILTER_SCALE: Category.FILTER_SCALES,
}


def category_of(layer: LayerNode, role: Role, content: Content | None = None) -> Category:
    """What a layer's values are for.

    # Arguments
        layer, role: the layer and its role in the network.
        content: which of its values; `None`: those that all layers of its kind have.
    """
    if content in _CONTENTS:
        return _CONTENTS[content]
    return _ROLES.get(role) or _KINDS.get(layer.kind, Category.OTHER)
