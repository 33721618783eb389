"""Looked-up signs become bits, other values stay."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.convert.passes import dead_code, sign_packing

from ...builder import Builder, names, normal, of_member, run


@pytest.mark.parametrize(
    ("values", "packed"), [([-1, 1], True), ([-1, 0, 1], False), ([-128, 1], False)]
)
def test_tables_of_signs_become_bits(values: list[int], packed: bool) -> None:
    table = np.random.default_rng(0).choice(values, (2, 3, 70)).astype(np.int8)
    build = Builder()
    x, member = build.input("image", 1, 70), build.member()
    row = build.op("CAST", build.lookup(table, member, "int8"), dtype="float32")
    module = build.module(members=2, logits=build.op("MUL", x, row, shape=(3, 70)))
    size = sum(tensor.data.size for tensor in module.graph.tensors if tensor.data is not None)
    assert sign_packing.run(module)["packed_tables"] == packed
    dead_code.run(module)
    assert ("LceDequantize" in names(module.graph)) == packed
    (lookup,) = module.graph.find("GATHER")
    if packed:
        assert (lookup.operands[0].dtype, lookup.operands[0].shape) == ("int32", (2, 3, 3))
        assert lookup.outputs[0].shape == (3, 3)
        stored = sum(t.data.size for t in module.graph.tensors if t.data is not None)
        assert size - stored == 2 * 3 * 70 - 2 * 3 * 3 * 4
    image = normal(1, 70)
    for number in (1, 0):
        ours = run(module, image=image, member=of_member(number))["logits"]
        np.testing.assert_array_equal(ours, image * table[number])


def test_a_lookup_of_two_rows_stays() -> None:
    build = Builder()
    table, rows = (
        build.constant([[1, -1], [-1, 1]], "int8"),
        build.input("member", 2, dtype="int32"),
    )
    found = build.op("GATHER", table, rows, shape=(2, 2))
    module = build.module(logits=build.op("CAST", found, dtype="float32"))
    assert sign_packing.run(module)["packed_tables"] == 0


def test_bits_by_hand() -> None:
    signs = np.ones((1, 40), np.int8)
    signs[0, [0, 5, 31, 33]] = -1
    np.testing.assert_array_equal(
        sign_packing.bit_packed(signs).view(np.uint32), [[1 + 2**5 + 2**31, 2]]
    )


def test_a_table_that_something_else_reads_stays() -> None:
    build, table = Builder(), [[1, -1], [-1, 1]]
    member = build.member()
    scalar = build.op("RESHAPE", member, build.constant([], "int32"), shape=())
    row = build.op("GATHER", build.constant(table, "int8"), scalar, shape=(2,))
    module = build.module(logits=build.op("CAST", row, dtype="float32"), row=row)
    assert sign_packing.run(module)["packed_tables"] == 0
    assert names(module.graph)[-1] == "CAST"
