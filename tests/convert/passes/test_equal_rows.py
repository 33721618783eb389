"""Equal rows are stored once, every member computes the same bits, and cutting undoes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from larq.layers import QuantConv2D

from larq_ensemble.convert.cutting import cut_file
from larq_ensemble.convert.file_conversion import convert_file
from larq_ensemble.convert.inspection import inspect_file, problems_of
from larq_ensemble.convert.passes import equal_rows
from larq_ensemble.convert.targets.c.planning import plan_ensemble
from larq_ensemble.convert.targets.c.source import flash_bytes
from larq_ensemble.convert.targets.lce import write
from larq_ensemble.ensembles.building import build_ensemble
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.ir.graph import Module, Tensor
from larq_ensemble.ir.verifier import verify
from larq_ensemble.keras import keras
from larq_ensemble.legalization.weights import quantization
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.file import read_ensemble

from ...builder import Builder, names, normal, of_member, run
from ..conftest import Converted, converted, pixels, randomized, shared_backbone
from ..targets.c.programs import Program

IMAGES = pixels(4, (16, 16, 3))


def table(rows: list[int], width: int = 100, seed: int = 0) -> np.ndarray:
    """A row of random numbers for each number."""
    return normal(max(rows) + 1, width, seed=seed)[rows]


def looked_up(*tables: np.ndarray) -> tuple[Module, list[Tensor]]:
    """The image times a member's row of each table, by one RESHAPE of the number."""
    build = Builder()
    y, member = build.input("image", 1, 100), build.member()
    number = build.op("RESHAPE", member, build.constant([], "int32"), shape=())
    constants = [build.constant(values) for values in tables]
    for constant in constants:
        row = build.op("GATHER", constant, number, shape=constant.shape[1:])
        y = build.op("MUL", y, row)
    return build.module(members=len(tables[0]), logits=y), constants


def logits(module: Module, members: int) -> bytes:
    image = normal(1, 100, seed=9)
    rows = [run(module, image=image, member=of_member(m))["logits"] for m in range(members)]
    return np.concatenate(rows).tobytes()


def indices(module: Module) -> list[list[int]]:
    return [
        op.operands[0].values.tolist()
        for op in module.graph.find("GATHER")
        if op.operands[0].dtype == "int32"
    ]


def test_rows_are_kept_once_in_the_order_of_members() -> None:
    values = [table([0, 1, 0, 2, 1], seed=seed) for seed in range(2)]
    module, tables = looked_up(*values)
    expected, size = logits(module, 5), len(write(module))
    assert equal_rows.run(module) == {"shared_rows": 4}
    verify(module, no_dead_code=True)
    assert indices(module) == [[0, 1, 0, 2, 1]]  # one for both
    for rows, before in zip(tables, values, strict=True):
        np.testing.assert_array_equal(rows.values, before[[0, 1, 3]])
    assert logits(module, 5) == expected
    assert 2 * 2 * 400 - 180 - 20 <= size - len(write(module)) < 2 * 2 * 400
    assert equal_rows.run(module) == {"shared_rows": 0}


def test_tables_with_other_equal_members_have_another_index() -> None:
    patterns = [[0, 0, 1], [0, 1, 1], [0, 1, 2], [0, 0, 1]]
    module, tables = looked_up(*(table(rows, seed=n) for n, rows in enumerate(patterns)))
    expected = logits(module, 3)
    assert equal_rows.run(module)["shared_rows"] == 3
    assert sorted(indices(module)) == [[0, 0, 1], [0, 1, 1]]
    assert [rows.shape[0] for rows in tables] == [2, 2, 3, 2]
    assert logits(module, 3) == expected


def test_the_number_as_it_is_given() -> None:
    build, values = Builder(), table([0, 0, 1])
    x, member = build.input("image", 1, 100), build.member()
    row = build.op("GATHER", build.constant(values), member, shape=(1, 100))
    module = build.module(members=3, logits=build.op("MUL", x, row))
    expected = logits(module, 3)
    assert equal_rows.run(module)["shared_rows"] == 1
    assert logits(module, 3) == expected
    assert names(module.graph) == ["GATHER", "GATHER", "MUL"]


@pytest.mark.parametrize(("width", "shares"), [(65, False), (66, True)])
def test_an_index_is_worth_256_bytes_and_its_own(width: int, shares: bool) -> None:
    build = Builder()
    x, member = build.input("image", 1, width), build.member()
    y = build.op("MUL", x, build.lookup(table([0, 0], width), member))
    module = build.module(members=2, logits=y)
    assert bool(equal_rows.run(module)["shared_rows"]) == shares


@pytest.mark.parametrize(("count", "shares"), [(1, False), (2, True)])
def test_what_saves_little_is_counted_together(count: int, shares: bool) -> None:
    """100 numbers of 2 bytes are fewer than an index is worth; in two tables they are not."""
    build = Builder()
    y, member = build.input("image", 1, 100), build.member()
    for seed in range(count):
        halves = table([0, 0], seed=seed).astype(np.float16)
        row = build.lookup(halves, member, "float16")
        y = build.op("MUL", y, build.op("DEQUANTIZE", row, dtype="float32"))
    module = build.module(members=2, logits=y)
    before = write(module)
    assert bool(equal_rows.run(module)["shared_rows"]) == shares
    assert (write(module) == before) == (not shares)


def test_the_same_table_twice_is_counted_once() -> None:
    halves = table([0, 0], 50)
    build = Builder()
    y, member = build.input("image", 1, 50), build.member()
    for _ in range(2):  # 200 bytes each, of which the file has one
        y = build.op("MUL", y, build.lookup(halves, member))
    assert equal_rows.run(build.module(members=2, logits=y))["shared_rows"] == 0


@pytest.mark.parametrize(
    "values",
    [
        table([0, 1, 2]),
        np.concatenate([np.zeros((1, 100)), -np.zeros((1, 100)), np.ones((1, 100))]).astype("f4"),
    ],
    ids=["different", "zeros of other signs"],
)
def test_different_rows_stay(values: np.ndarray) -> None:
    module, _ = looked_up(values)
    before = write(module)
    assert equal_rows.run(module)["shared_rows"] == 0
    assert write(module) == before


@pytest.mark.parametrize("reader", ["axis", "whole table", "more rows", "computed number"])
def test_other_readers_of_tables(reader: str) -> None:
    build, members = Builder(), 100
    values = np.ones((members + (reader == "more rows"), 100), np.float32)
    x, member = build.input("image", 1, 100), build.member()
    rows = build.constant(values)
    number = build.op("RESHAPE", member, build.constant([], "int32"), shape=())
    if reader == "computed number":
        number = build.op("MINIMUM", number, build.constant(0, "int32"))
    y = build.op("MUL", x, build.op("GATHER", rows, number, shape=(100,), axis=reader == "axis"))
    if reader == "whole table":
        y = build.op("MUL", y, build.op("SUM", rows, build.constant([0], "int32"), shape=(100,)))
    module = build.module(members=members, logits=y)
    assert equal_rows.run(module)["shared_rows"] == 0


@pytest.mark.parametrize(("scales", "shares"), [(1, True), (2, False)])
def test_a_scale_a_row_belongs_to_the_row(scales: int, shares: bool) -> None:
    module, (rows,) = looked_up(table([0, 0]))
    rows.quantization = quantization(np.arange(1, 1 + scales))
    assert bool(equal_rows.run(module)["shared_rows"]) == shares


def test_restoring_gives_the_same_bytes() -> None:
    module, _ = looked_up(table([0, 0, 1]), table([0, 1, 1], seed=1), table([0, 1, 2], seed=2))
    before = write(module)
    assert not equal_rows.restore(module)
    equal_rows.run(module)
    assert equal_rows.restore(module)
    assert write(module) == before


@pytest.mark.parametrize("read", ["columns of the image", "several rows"])
def test_numbers_that_are_no_index_stay(read: str) -> None:
    build = Builder()
    x, member = build.input("image", 1, 100), build.member()
    if read == "several rows":
        numbers = build.lookup([[0, 1], [0, 1], [1, 0]], member, "int32")
        both = build.op("GATHER", build.constant(table([0, 1])), numbers, shape=(2, 100))
        y = build.op("MUL", both, x)
    else:
        numbers = build.lookup([0, 0, 1], member, "int32")
        y = build.op("GATHER", x, numbers, shape=(1,), axis=1)
    module = build.module(members=3, logits=y)
    before = write(module)
    assert not equal_rows.restore(module)
    assert write(module) == before


@pytest.fixture(scope="module", params=[False, True], ids=["", "mirror"])
def kept_twice(request: pytest.FixtureRequest) -> keras.Model:
    """Three members, of which 0 and 1 have the same weights."""
    model = randomized(build_ensemble(shared_backbone(classes=40), 3, mirror=request.param))
    one, other = ({layer.name[9:]: layer for layer in model.own_layers(m)} for m in (0, 1))
    for name, layer in other.items():
        layer.set_weights(one[name].get_weights())
    return model


def both(model: keras.Model, folder: Path, **options: Any) -> tuple[Converted, Converted]:
    """The file, and the one that it would be without the pass."""
    folders = folder / "with", folder / "without"
    for each in folders:
        each.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equal_rows, "_LEAST_SAVED", 1 << 30)
        without = converted(model, folders[1], layout="indexed", **options)
    return converted(model, folders[0], layout="indexed", **options), without


def assert_same_bits(path: Path, other: Path, **options: str) -> np.ndarray:
    ours, expected = (
        EnsembleInterpreter(each, **options).predict_logits(IMAGES) for each in (path, other)
    )
    assert ours.tobytes() == expected.tobytes()
    return ours


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"heads": "int8", "precision": "compact"},
        {"target": "litert", "filters": "int8"},
        {"target": "litert", "filters": "1bit", "heads": "int8", "precision": "compact"},
    ],
    ids=str,
)
def test_members_that_are_one_network(kept_twice, tmp_path, options: dict[str, str]) -> None:
    ours, without = both(kept_twice, tmp_path, **options)
    backend = "litert" if "target" in options else "lce"
    kernel = "builtin" if "target" in options else "default"
    for members in (3, 2, 1):
        cut, other = tmp_path / f"{members}.tflite", tmp_path / f"{members}-without.tflite"
        for source, target in ((ours, cut), (without, other)):
            cut_file(source.path, target, members)
        assert_same_bits(cut, other, backend=backend, kernel=kernel)
        assert problems_of(cut) == []
        verify(read(cut.read_bytes()), no_dead_code=True)
        found, expected = inspect_file(cut), inspect_file(other)
        assert sum(found.categories.values()) == found.bytes
        assert found.lower_bound == expected.lower_bound
        assert found.categories["other"] <= expected.categories["other"] + 4 * members
        if members == 1:
            assert cut.read_bytes() == other.read_bytes()
            continue
        assert found.bytes < expected.bytes - 256
        if not options:
            for name in ("heads", "batch_norm", "activations"):
                assert found.categories[name] * members == expected.categories[name] * (members - 1)


def test_the_lower_bound_counts_them_once(kept_twice, tmp_path) -> None:
    case = converted(kept_twice, tmp_path, layout="indexed")
    head = 4 * (16 * 40 + 40)
    for members, different in ((3, 2), (2, 1), (1, 1)):
        cut = cut_file(case.path, tmp_path / "cut.tflite", members)
        metadata = read_ensemble(tmp_path / "cut.tflite").metadata
        assert metadata.theory_parts["member_heads"] == different * head
        sizes = metadata.theory_parts_of_first.get("member_heads")
        assert sizes == ((head, head, 2 * head)[:members] if members > 1 else None)
        assert cut.lower_bound_bytes < cut.bytes


@pytest.mark.parametrize("precision", ["float32", "compact"])
@pytest.mark.parametrize("has_vectors", [True, False])
def test_the_lower_bound_of_slopes_of_each_pixel(tmp_path, precision, has_vectors) -> None:
    """No vector holds them, so they may be equal where vectors differ, and there may be none."""
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(16, 3, use_bias=False)(image)
    x = keras.layers.BatchNormalization()(x) if has_vectors else x
    x = QuantConv2D(16, 3, input_quantizer="ste_sign", kernel_quantizer="ste_sign")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.PReLU(name="slopes")(x))
    backbone = keras.Model(image, keras.layers.Dense(10, use_bias=False)(x))
    ensemble = build_ensemble(randomized(backbone), 3, jitter=0)
    for member in range(3):
        for layer in ensemble.own_layers(member):
            if "slopes" not in layer.name:
                draw = np.random.default_rng(member)
                layer.set_weights([w * draw.uniform(0.5, 2, w.shape) for w in layer.get_weights()])
    report = converted(ensemble, tmp_path, layout="indexed", precision=precision).report
    slopes = 4 * 12 * 12 * 16
    parts = read_ensemble(tmp_path / "ensemble.tflite").metadata.theory_parts
    assert parts["member_activations"] == slopes
    assert slopes < report.lower_bound_bytes < report.bytes < 3 * slopes


def test_an_untrained_ensemble_has_the_size_of_a_trained_one(tmp_path) -> None:
    """Its members have the backbone's head, until they are trained."""
    model = build_ensemble(shared_backbone(classes=40), 3)
    ours, without = both(model, tmp_path, heads="int8")
    assert ours.path.read_bytes() == without.path.read_bytes()
    parts = read_ensemble(ours.path).metadata.theory_parts
    assert parts["member_heads"] == 3 * (16 * 40 + 4 * 2 * 40)


def test_the_trunk_is_computed_once_too(kept_twice, tmp_path) -> None:
    ours, without = both(kept_twice, tmp_path)
    found, expected = (inspect_file(case.path) for case in (ours, without))
    assert found.trunk_ops == expected.trunk_ops
    assert set(found.arena_bytes) == set(expected.arena_bytes)


@pytest.mark.parametrize("layout", ["subgraphs", "branches"])
def test_other_layouts_share_equal_constants(kept_twice, tmp_path, layout: str) -> None:
    case = converted(kept_twice, tmp_path, layout=layout)
    graphs = read(case.path.read_bytes()).graphs
    heads = {
        id(tensor.data)
        for graph in graphs
        for tensor in graph.tensors
        if tensor.data is not None and tensor.size == 16 * 40
    }
    assert len(heads) == 2


def test_a_file_for_stock_runtimes_made_of_it(kept_twice, tmp_path) -> None:
    case = converted(kept_twice, tmp_path, layout="indexed")
    report = convert_file(case.path, tmp_path / "stock.tflite", filters="1bit", members=2)
    assert report.agreement is not None
    graph = read((tmp_path / "stock.tflite").read_bytes()).graphs[0]
    assert [0, 0] in [
        op.operands[0].values.tolist()
        for op in graph.find("GATHER")
        if op.operands[0].data is not None
    ]


def test_c_source(kept_twice, tmp_path) -> None:
    """The program has equal rows once, too: a head of 16 x 40 bytes, and its scales."""
    case = converted(kept_twice, tmp_path, layout="indexed", heads="int8", precision="compact")
    file = read_ensemble(case.path)
    expected = EnsembleInterpreter(case.path).predict_logits(IMAGES)
    plan = plan_ensemble(file)
    flash = flash_bytes(plan)
    assert flash["rows of members"] == 3
    assert 2 * 16 * 40 <= flash["head"] < 3 * 16 * 40
    program = Program(tmp_path, plan, file.metadata)
    for number, image in enumerate(IMAGES):
        for member in (2, 1, 0):
            ours = program.logits(image, member)
            np.testing.assert_allclose(ours, expected[member, number], rtol=1e-3, atol=1e-3)
