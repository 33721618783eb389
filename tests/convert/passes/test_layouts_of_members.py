"""From rows of tables to constants: a graph per member, or a branch."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from larq_ensemble.convert.passes import member_branches, member_subgraphs
from larq_ensemble.convert.targets.lce import write
from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.ir.graph import Module
from larq_ensemble.ir.verifier import verify

from ...builder import Builder, names, normal, of_member, run

MEMBERS = 3
SCALES = normal(MEMBERS, 4)


def indexed() -> Module:
    """`relu(tanh(image) * scale)` of a member, through a product with a shared vector."""
    build = Builder()
    image, member = build.input("image", 1, 4), build.member()
    common = build.op("TANH", image)
    scaled = build.op("MUL", common, build.lookup(SCALES, member))
    shared = build.op("MUL", scaled, build.constant(normal(4, seed=2)))
    return build.module(members=MEMBERS, logits=build.op("RELU", shared))


def logits_of_members() -> np.ndarray:
    module, image = indexed(), normal(1, 4, seed=3)
    logits = [run(module, image=image, member=of_member(m))["logits"] for m in range(MEMBERS)]
    return np.concatenate(logits)


def test_a_graph_a_member() -> None:
    module, expected = indexed(), logits_of_members()
    assert member_subgraphs.run(module)["member_subgraphs"] == MEMBERS
    verify(module, no_dead_code=True)
    ours = [run(module, m, image=normal(1, 4, seed=3))["logits"] for m in range(MEMBERS)]
    assert np.concatenate(ours).tobytes() == expected.tobytes()
    keys = [graph.signature.key for graph in module.graphs if graph.signature]
    assert keys == ["member_0", "member_1", "member_2"]
    first, second, _ = module.graphs
    assert names(first) == ["TANH", "MUL", "MUL", "RELU"]
    # All tensors but the members' own value are the same.
    differing = [a for a, b in zip(first.tensors, second.tensors, strict=True) if a is not b]
    assert [tensor.values.tolist() for tensor in differing] == [SCALES[0].tolist()]
    # Operators are the same tables: a further member takes a list of tensors and its values.
    of_two = indexed()
    of_two.members = 2
    member_subgraphs.run(of_two)
    assert len(write(module)) - len(write(of_two)) < 16 + 4 * len(first.tensors) + 150


def test_a_branch_a_member() -> None:
    module, expected = indexed(), logits_of_members()
    assert member_branches.run(module)["member_branches"] == MEMBERS
    verify(module, no_dead_code=True)
    assert names(module.graph) == ["TANH", *["MUL", "MUL", "RELU"] * MEMBERS]
    ours = run(module, image=normal(1, 4, seed=3))
    assert list(ours) == ["logits_0", "logits_1", "logits_2"]
    assert np.concatenate([*ours.values()]).tobytes() == expected.tobytes()
    assert list(read(write(module)).graph.signature.outputs) == list(ours)


@pytest.mark.parametrize("layout", [member_subgraphs, member_branches])
def test_only_lookups_may_read_the_number(layout: ModuleType) -> None:
    """A lowering of one's own may compute with the number, which leaves the layout `indexed`."""
    build = Builder()
    image, member = build.input("image", 1, 1), build.member()
    number = build.op("CAST", member, dtype="float32")
    module = build.module(members=2, logits=build.op("MUL", image, number))
    with pytest.raises(EnsembleError, match="does CAST with the member's number"):
        layout.run(module)
