"""The least bytes that hold an ensemble's values: what a file is measured against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from larq_ensemble.convert.categories import category_of
from larq_ensemble.convert.frontend.tables import COMPACT_BITS
from larq_ensemble.ensembles import Ensemble
from larq_ensemble.ensembles.names import own_name
from larq_ensemble.network.graph import Content, LayerGraph, LayerNode, Role, Stored

#: What members own as vectors, one value per channel or class.
_VECTORS = {Content.NORM, Content.ACTIVATION, Content.BIAS, Content.FILTER_SCALE}


def lower_bound_parts(
    graph: LayerGraph, ensemble: Ensemble, heads: str, precision: str
) -> dict[str, int]:
    """Bytes by owner and category, as the storage accounting counts them.

    A binary weight takes 1 bit and a float 4 bytes; batch normalization is folded to two values per
    channel. With int8 heads a weight of the head takes 1 byte, and each of its outputs one more
    float. With the precision `compact` a value of a member's vector takes `COMPACT_BITS` bits, and
    its column 4 bytes that all members share.

    # Arguments
        graph: the first member's layers.
        ensemble: the ensemble.
        heads, precision: number formats, see `larq_ensemble.convert.convert_ensemble`.

    # Returns
        `shared_{category}`, stored once, and `member_{category}`, of all members together.
    """
    bits: Counter[str] = Counter()
    for node in graph:
        role = graph.roles[node.name]
        is_own = node.name.startswith(own_name(0, ""))
        is_int8 = heads == "int8" and role is Role.HEAD
        outputs = ensemble.get_layer(node.name).kernel.shape[-1] if is_int8 else 0
        for item in _in_int8(node, outputs) if is_int8 else node.stored:
            category = category_of(node, role, item.content).value
            if is_own and precision == "compact" and item.content in _VECTORS:
                bits[f"member_{category}"] += item.count * COMPACT_BITS
                bits[f"shared_{category}"] += item.count * 32
            else:
                bits[f"{'member' if is_own else 'shared'}_{category}"] += item.total_bits
    return {
        name: -(-count // 8) * (ensemble.members if name.startswith("member_") else 1)
        for name, count in bits.items()
    }


def _in_int8(node: LayerNode, outputs: int) -> Iterator[Stored]:
    """What a file stores of a head with int8 weights and a scale for each output."""
    for item in node.stored:
        is_kernel = item.content in (Content.LINEAR, Content.CONV)
        yield replace(item, bits=8) if is_kernel else item
    yield Stored(Content.BIAS, outputs, 32)
