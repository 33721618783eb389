"""The bytes that LCE's interpreter gets: aligned, nothing twice, metadata last."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.convert.passes import shared_trunk
from larq_ensemble.convert.targets.lce import write, write_ensemble
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.ir.graph import Module
from larq_ensemble.ir.schema import schema
from larq_ensemble.runtime.file import metadata_of
from larq_ensemble.runtime.metadata import EnsembleMetadata

from ...builder import Builder, normal, of_member, run


def chain(length: int) -> Module:
    """The same sum again and again."""
    build = Builder()
    y, offset = build.input("image", 1, 4), build.constant(normal(4))
    for _ in range(length):
        y = build.op("ADD", y, offset)
    return build.module(logits=y)


def test_equal_tables_are_written_once() -> None:
    root = schema().Model.GetRootAsModel(write(chain(5)), 0)
    graph = root.Subgraphs(0)
    tensors = [graph.Tensors(number)._tab.Pos for number in range(graph.TensorsLength())]
    assert len(tensors) == 7
    assert len(set(tensors)) == 2  # the maps, the constant
    options = [graph.Operators(number).BuiltinOptions().Pos for number in range(5)]
    assert len(set(options)) == 1
    # A further sum takes its place in two lists and its table with two vectors.
    assert len(write(chain(21))) - len(write(chain(5))) <= 16 * (4 + 4 + 20 + 12 + 8)
    image = normal(1, 4, seed=1)
    expected = image
    for _ in range(5):
        expected = expected + normal(4)
    np.testing.assert_array_equal(run(chain(5), image=image)["logits"], expected)


@pytest.mark.parametrize("sizes", [(1, 2, 3), (5, 4, 7)])
def test_constants_are_aligned(sizes: tuple[int, ...]) -> None:
    build = Builder()
    y = build.input("image", 1)
    for size in sizes:
        y = build.op("ADD", y, build.constant(normal(size, 1, 1)), shape=(size, 1, 1))
        y = build.op("MEAN", y, build.constant([0, 1], "int32"), shape=(1,))
    data = write(build.module(logits=y))
    root = schema().Model.GetRootAsModel(data, 0)
    start = np.frombuffer(root._tab.Bytes, np.uint8).ctypes.data
    buffers = [root.Buffers(number) for number in range(root.BuffersLength())]
    constants = [buffer.DataAsNumpy() for buffer in buffers if buffer.DataLength()]
    assert len(constants) == 2 * len(sizes)
    assert all((constant.ctypes.data - start) % 16 == 0 for constant in constants)


def test_metadata_stand_last_and_seal_the_file() -> None:
    metadata = EnsembleMetadata(
        scheme="fusion", members=1, classes=4, input_shape=(1, 1, 4), dataset="of a test"
    )
    module = chain(2)
    module.metadata = {"other": b"before"}
    data = write_ensemble(module, metadata)
    assert data.rstrip(b"\0").endswith(b'"theory_bytes":0}')
    found = metadata_of(data)
    assert found is not None
    assert found.dataset == "of a test"
    assert found.sha256 != metadata.sha256
    assert write(read(data)) == data


def test_a_trunk_has_room_for_the_tensors_that_tflite_adds() -> None:
    build = Builder()
    image, member = build.input("image", 1, 4, 4, 2), build.member()
    filters = build.constant(normal(3, 1, 1, 2))
    common = build.op(
        *("CONV_2D", image, filters, build.constant(normal(3))),
        shape=(1, 4, 4, 3), strideH=1, strideW=1,
    )  # fmt: skip
    scaled = build.op("MUL", common, build.lookup(normal(2, 3), member))
    module = build.module(members=2, logits=scaled)
    shared_trunk.run(module)
    sizes = [len(graph.tensors) for graph in read(write(module)).graphs]
    assert sizes == [len(module.graphs[0].tensors), 128, len(module.graphs[0].tensors)]
    features = run(module, 1, image=normal(1, 4, 4, 2))
    assert run(module, 2, member=of_member(0), **features)["logits"].shape == (1, 4, 4, 3)


@pytest.mark.parametrize(
    ("view", "shape", "options", "operand", "sums"),
    [
        ("RESHAPE", (6, 16), {"newShape": [6, 16]}, [6, 16], (6, 16)),
        ("RESHAPE", (6, 16), {"newShape": [6, 16]}, [6, 16], (1, 6, 16)),
        ("EXPAND_DIMS", (1, 1, 6, 1, 16), {}, [1], (1, 1, 6, 1, 16)),
        ("SQUEEZE", (1, 6, 16), {"squeezeDims": [2]}, None, (1, 6, 16)),
    ],
)
def test_what_is_read_later_is_not_overwritten_through_a_view(
    view: str,
    shape: tuple[int, ...],
    options: dict,
    operand: list[int] | None,
    sums: tuple[int, ...],
) -> None:
    build = Builder()
    clipped = build.op("RELU_N1_TO_1", build.input("image", 1, 6, 1, 16))
    doubled = build.op("MUL", clipped, build.constant(np.full(16, 2)))  # in the place of `clipped`
    operands = [] if operand is None else [build.constant(operand, "int32")]
    y = build.op(view, doubled, *operands, shape=shape, **options)
    y = build.op("ADD", y, build.constant(np.ones(sums)), shape=sums)
    back = build.constant([1, 6, 1, 16], "int32")
    y = build.op("RESHAPE", y, back, shape=(1, 6, 1, 16), newShape=[1, 6, 1, 16])
    module = build.module(logits=build.op("ADD", y, build.op("RELU6", doubled)))
    image = normal(1, 6, 1, 16, seed=1)
    expected = 2 * np.clip(image, -1, 1)
    expected = expected + 1 + np.clip(expected, 0, 6)
    np.testing.assert_array_equal(run(module, image=image)["logits"], expected)
    again = read(write(module))
    count = len(again.graph.operators)
    write(again)
    assert len(again.graph.operators) == count
