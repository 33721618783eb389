"""Equal bytes are stored once, whatever they mean."""

from __future__ import annotations

from larq_ensemble.convert.passes import constant_deduplication
from larq_ensemble.convert.targets.lce import write
from larq_ensemble.ir.flatbuffer import read

from ...builder import Builder, normal, run


def test_equal_bytes_share_a_buffer() -> None:
    build = Builder()
    x = build.input("image", 1, 3)
    one, same = (build.constant([1.0, 2, 3]) for _ in range(2))
    other_shape, other = build.constant([[1.0, 2, 3]]), build.constant([1.0, 2, 4])
    y = x
    for constant in (one, same, other_shape, other):
        y = build.op("ADD", y, constant)
    module = build.module(logits=y)
    before = run(module, image=normal(1, 3))["logits"]
    assert constant_deduplication.run(module)["shared_buffers"] == 2
    assert one.data is same.data is other_shape.data is not other.data
    graph = read(write(module)).graph
    assert len({id(t.data) for t in graph.tensors if t.data is not None}) == 2
    assert run(module, image=normal(1, 3))["logits"].tobytes() == before.tobytes()


def test_the_shape_of_a_scalar_stays_a_constant() -> None:
    build = Builder()
    member = build.member()
    scalar = build.op("RESHAPE", member, build.constant([], "int32"), shape=())
    module = build.module(
        logits=build.op("RESHAPE", scalar, build.constant([1], "int32"), shape=[1])
    )
    constant_deduplication.run(module)
    shape = read(write(module)).graph.operators[0].operands[1]
    assert shape.data is not None
    assert shape.data.size == 0
