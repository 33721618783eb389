"""What was looked up to hide it from the converter is a constant again, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.convert.frontend.lce import convert_function
from larq_ensemble.convert.passes import constant_lookups
from larq_ensemble.convert.pipeline import run_pipeline
from larq_ensemble.convert.targets.lce import write
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.keras import tf

from ...builder import Builder, names, normal, of_member, run


@pytest.mark.parametrize(("rows", "hidden"), [(1, True), (2, False)])
def test_a_lookup_at_zero_is_the_row(rows: int, hidden: bool) -> None:
    build, table = Builder(), normal(rows, 3)
    x, member = build.input("image", 1, 3), build.member()
    zero = build.op("MINIMUM", member, build.constant([0], "int32"))
    row = build.op("GATHER", build.constant(table), zero, shape=(1, 3))
    module = build.module(logits=build.op("MUL", x, row))
    inputs = {"image": normal(1, 3, seed=1), "member": of_member(1)}
    before = run(module, **inputs)["logits"]
    counts = constant_lookups.run(module)
    assert counts["revealed_constants"] == hidden
    assert ("GATHER" not in names(module.graph)) == hidden
    np.testing.assert_array_equal(run(module, **inputs)["logits"], before)
    np.testing.assert_array_equal(before, inputs["image"] * table[0])


@pytest.mark.parametrize("axis", [0, 1])
def test_a_lookup_of_something_else_than_the_row_stays(axis: int) -> None:
    build, table = Builder(), normal(1, 3)
    x, member = build.input("image", 1, 3), build.member()
    place = build.op("MINIMUM", member, build.constant([2], "int32"))
    index = place if axis else build.op("MUL", place, build.constant([0, 0], "int32"), shape=(2,))
    shape = (1, 1) if axis else (2, 3)
    found = build.op("GATHER", build.constant(table), index, shape=shape, axis=axis)
    module = build.module(logits=build.op("MUL", x, found, shape=(max(shape[0], 1), 3)))
    assert constant_lookups.run(module)["revealed_constants"] == 0


def test_a_table_of_one_member_is_still_looked_up() -> None:
    build = Builder()
    x, member = build.input("image", 1, 3), build.member()
    module = build.module(logits=build.op("MUL", x, build.lookup(normal(1, 3), member)))
    constant_lookups.run(module)
    assert names(module.graph) == ["RESHAPE", "GATHER", "MUL"]


def test_of_the_converter() -> None:
    """Looked up by min(member, 0), so that the converter leaves it int8; a constant afterwards."""
    table = np.random.default_rng(0).integers(-127, 128, (1, 5, 70)).astype(np.int8)
    raw = convert_function(
        tf.function(
            lambda image, member: {
                "y": image * tf.cast(tf.gather(table, tf.minimum(member[0], 0)), tf.float32)
            },
            input_signature=[
                tf.TensorSpec([1, 70], name="image"),
                tf.TensorSpec([1], tf.int32, name="member"),
            ],
        ),
        [],
    )
    module = read(raw)
    run_pipeline(module)
    assert names(module.graph) == ["CAST", "MUL"]
    assert len(write(module)) < len(raw)
    x = np.linspace(-1, 1, 70, dtype=np.float32)[np.newaxis]
    for number in (0, 3):
        inputs = {"image": x, "member": of_member(number)}
        ours, before = (run(each, **inputs)["y"] for each in (module, read(raw)))
        assert ours.tobytes() == before.tobytes()
        np.testing.assert_array_equal(ours, x * table[0])
