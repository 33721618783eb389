"""The least bytes that hold an ensemble's values: what a file is measured against."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace

from larq_ensemble.convert.categories import category_of
from larq_ensemble.convert.frontend.tables import COMPACT_BITS, Tables
from larq_ensemble.convert.passes.equal_rows import Rows
from larq_ensemble.ensembles import Ensemble
from larq_ensemble.ensembles.names import own_name
from larq_ensemble.network.graph import Content, LayerGraph, LayerNode, Role, Stored

#: What members own as vectors, one value per channel or class.
_VECTORS = {Content.NORM, Content.ACTIVATION, Content.BIAS, Content.FILTER_SCALE}


def lower_bound_parts(
    graph: LayerGraph,
    ensemble: Ensemble,
    heads: str,
    precision: str,
    tables: Tables,
    *,
    share_rows: bool,
) -> dict[str, tuple[int, ...]]:
    """Bytes by owner and category, as the storage accounting counts them.

    A binary weight takes 1 bit and a float 4 bytes; batch normalization is folded to two values per
    channel. With int8 heads a weight of the head takes 1 byte, and each of its outputs one more
    float. With the precision `compact` a value of a member's vector takes `COMPACT_BITS` bits, and
    its column 4 bytes that all members share.

    Equal rows of a table count once, because a file can store them once
    (`larq_ensemble.convert.passes.equal_rows`) and would be below its lower bound otherwise.

    # Arguments
        graph: the first member's layers.
        ensemble: the ensemble.
        heads, precision: number formats, see `larq_ensemble.convert.convert_ensemble`.
        tables: the members' values.
        share_rows: whether equal rows count once.

    # Returns
        `shared_{category}`, stored once, and `member_{category}`, of all members together; of the
        first 1, 2, ... M members.
    """
    members = ensemble.members
    once: Rows = (0,) * members
    bits: defaultdict[str, Counter[Rows]] = defaultdict(Counter)
    for node in graph:
        role = graph.roles[node.name]
        is_own = node.name.startswith(own_name(0, ""))
        is_int8 = heads == "int8" and role is Role.HEAD
        outputs = ensemble.get_layer(node.name).kernel.shape[-1] if is_int8 else 0
        for item in _in_int8(node, outputs) if is_int8 else node.stored:
            category = category_of(node, role, item.content).value
            is_vector = item.content in _VECTORS and not tables.has_only_arrays(node.name)
            if not is_own:
                bits[f"shared_{category}"][once] += item.total_bits
                continue
            rows: Rows = tuple(range(members))
            if share_rows:
                rows = tables.distinct_rows(node.name, in_vectors=is_vector) or rows
            if is_vector and precision == "compact":
                bits[f"member_{category}"][rows] += item.count * COMPACT_BITS
                bits[f"shared_{category}"][once] += item.count * 32
            else:
                bits[f"member_{category}"][rows] += item.total_bits
    return {name: _of_first(counts, members) for name, counts in bits.items()}


def _of_first(bits: Counter[Rows], members: int) -> tuple[int, ...]:
    """Bytes of the different rows of the first 1, 2, ... members.

    # Arguments
        bits: of a row, by the rows of the table that it is in.
    """
    each = [
        sum(count for rows, count in bits.items() if rows[member] not in rows[:member])
        for member in range(members)
    ]
    return tuple(itertools.accumulate(-(-count // 8) for count in each))


def _in_int8(node: LayerNode, outputs: int) -> Iterator[Stored]:
    """What a file stores of a head with int8 weights and a scale for each output."""
    for item in node.stored:
        is_kernel = item.content in (Content.LINEAR, Content.CONV)
        yield replace(item, bits=8) if is_kernel else item
    yield Stored(Content.BIAS, outputs, 32)
