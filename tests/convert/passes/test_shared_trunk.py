"""Trunk and rest compute the bits of the complete graph; the trunk is as long as can be."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from larq_ensemble.convert.cutting import cut_file
from larq_ensemble.convert.frontend.lce import convert_function
from larq_ensemble.convert.inspection import inspect_file
from larq_ensemble.convert.passes import constant_deduplication, shared_trunk
from larq_ensemble.convert.passes.shared_trunk import drop_parts, trunk_of
from larq_ensemble.convert.pipeline import run_pipeline
from larq_ensemble.convert.targets.lce import write
from larq_ensemble.ensembles.building import build_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.ir.graph import Graph, Module
from larq_ensemble.ir.verifier import verify
from larq_ensemble.keras import tf
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.backends import KERNELS, lce
from larq_ensemble.runtime.cascade import Cascade, log_margin
from larq_ensemble.runtime.file import read_ensemble, seal, with_metadata, with_one_subgraph

from ...builder import Builder, names, normal, of_member, run
from ..conftest import (
    Converted,
    SmallCase,
    converted,
    pixels,
    quicknet_backbone,
    randomized,
    shared_backbone,
)

BOTH = pytest.mark.parametrize("layout", ["indexed", "subgraphs"])


def by_complete_graphs(path: Path, images: np.ndarray, kernel: str) -> np.ndarray:
    """Logits `[members, n, classes]`, by LCE's interpreter of the graphs from image to logits."""
    file, logits = read_ensemble(path), []
    for member in range(file.metadata.members):
        graph = file.graphs[member if len(file.graphs) > 1 else 0]
        model = lce.load_model(with_one_subgraph(file.data, graph.index), 1, kernel)
        inputs: list[Any] = [np.array([member], np.int32)] * len(graph.inputs)
        for image in images:
            inputs[graph.inputs["image"]] = image[np.newaxis].astype(np.float32)
            logits += model.predict(inputs)
    return np.concatenate(logits).reshape(file.metadata.members, len(images), -1)


def assert_same_bits(path: Path, shape: tuple[int, int, int]) -> None:
    images = pixels(4, shape)
    for kernel in KERNELS["lce"]:
        ours = EnsembleInterpreter(path, kernel=kernel).predict_logits(images)
        assert ours.tobytes() == by_complete_graphs(path, images, kernel).tobytes()
        assert len({logits.tobytes() for logits in ours}) == len(ours)


def without_trunk(path: Path, out: Path) -> Path:
    """The file as it would be without the two kinds of graphs."""
    module = read(path.read_bytes())
    assert drop_parts(module)
    constant_deduplication.run(module)
    out.write_bytes(seal(write(module)))
    return out


def places_of_outputs(graph: Graph) -> list[list[int]]:
    return [[graph.tensors.index(tensor) for tensor in op.outputs] for op in graph.operators]


@BOTH
@pytest.mark.parametrize("sharing", ["fusion", "c3"])
def test_the_stem_is_computed_once(sharing: str, layout: str, small_case: SmallCase) -> None:
    case = small_case(3, sharing, layout=layout)
    file = read_ensemble(case.path)
    assert file.trunk is not None
    assert (set(file.trunk.inputs), set(file.trunk.outputs)) == ({"image"}, {"features_0"})
    assert len(file.rests) == len(file.graphs) == (3 if layout == "subgraphs" else 1)
    for graph, rest in zip(file.graphs, file.rests, strict=True):
        assert set(rest.inputs) == set(graph.inputs) - {"image"} | {"features_0"}
    assert_same_bits(case.path, (16, 16, 3))
    inspection = inspect_file(case.path)
    ops = {name: n for name, n in inspection.trunk_ops.items() if name not in ("RESHAPE", "TILE")}
    assert ops == {"MUL": 1, "ADD": 1, "CONV_2D": 1}
    # The trunk and the rest make the complete graph, none of whose operators are in both.
    graphs = read(case.path.read_bytes()).graphs
    complete, trunk, rest = (
        places_of_outputs(graphs[graph.index])
        for graph in (file.graphs[-1], file.trunk, file.rests[-1])
    )
    assert sorted(trunk + rest) == sorted(complete)
    assert inspection.graph_ops == len(complete)


@BOTH
def test_its_graphs_take_few_bytes(layout: str, small_case: SmallCase, tmp_path: Path) -> None:
    case = small_case(layout=layout)
    before = without_trunk(case.path, tmp_path / "before.tflite")
    size, graphs = before.stat().st_size, 3 if layout == "subgraphs" else 1
    operators = inspect_file(case.path).graph_ops
    # The lists of operators once, that of the trunk's tensors, and for each graph its description
    # and its signature.
    assert case.path.stat().st_size - size < 4 * (operators + 128) + 200 * (1 + graphs)
    categories = inspect_file(case.path).categories
    assert sum(categories.values()) == case.path.stat().st_size
    changed = {
        name for name, count in inspect_file(before).categories.items() if count != categories[name]
    }
    assert changed == {"graph"}


@pytest.mark.parametrize("sharing", ["c1", "none"])
@BOTH
def test_nothing_to_share_where_the_stem_is_a_member_s_own(
    sharing: str, layout: str, small_case: SmallCase
) -> None:
    """What is left, the normalization, isn't worth a graph."""
    case = small_case(2, sharing, layout=layout)
    file = read_ensemble(case.path)
    assert (file.trunk, file.rests) == (None, ())
    assert inspect_file(case.path).trunk_ops == {}
    assert_same_bits(case.path, (16, 16, 3))


def test_branches_have_the_trunk_in_them(small_case: SmallCase) -> None:
    case = small_case(layout="branches")
    assert read_ensemble(case.path).trunk is None


@BOTH
def test_a_deeper_trunk(layout: str, tmp_path: Path) -> None:
    """All of a QuickNet is shared but its last section: much of it, binary layers too, runs once.

    The shortcut around the member's first convolution starts in the trunk.
    """
    last = ("section1", "logits")
    model = build_ensemble(
        quicknet_backbone(), 3, sharing=lambda layer: not layer.name.startswith(last)
    )
    case = converted(randomized(model), tmp_path, layout=layout)
    inspection = inspect_file(case.path)
    assert inspection.trunk_ops["LceBconv2d"] == 1
    assert inspection.trunk_ops["DEPTHWISE_CONV_2D"] == 2
    assert inspection.trunk_ops["MAX_POOL_2D"] == 1
    assert_same_bits(case.path, (24, 24, 3))
    prefix = read_ensemble(case.path).trunk
    assert prefix is not None
    # The transition's output, and in bits what the members' own convolution takes.
    assert set(prefix.outputs) == {"features_0", "features_1"}


def test_trunks_of_any_size_run(tmp_path: Path) -> None:
    """LCE's Python binding crashes for a trunk of some size if nothing is done about it."""
    fusion = converted(randomized(build_ensemble(shared_backbone(size=8), 3)), tmp_path)
    images, path = pixels(2, (8, 8, 3)), tmp_path / "moved.tflite"
    expected = EnsembleInterpreter(fusion.path).predict_logits(images)
    for count in range(108, 132):
        module = read(fusion.path.read_bytes())
        trunk = trunk_of(module)
        place = trunk.tensors.index(trunk.outputs[0])
        drop_parts(module)
        graph, module.members = module.graph, 3
        assert len(graph.tensors) < 108
        # The stem's output becomes the tensor of that number, with unused ones before it.
        stem = graph.tensors[place]
        unused = [dataclasses.replace(stem) for _ in range(count - len(graph.tensors))]
        graph.tensors[place] = unused.pop()
        graph.tensors += [*unused, stem]
        shared_trunk.run(module)
        path.write_bytes(seal(write(module)))
        ours = EnsembleInterpreter(path, kernel="default")
        for _ in range(3):
            assert ours.predict_logits(images).tobytes() == expected.tobytes()


@BOTH
def test_members_that_read_the_image_too(layout: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    shared, own, head = draw.normal(size=(3, 3, 3, 4)), draw.normal(size=(2, 3)), np.eye(7, 5)

    def compute(image: tf.Tensor, member: tf.Tensor) -> dict[str, tf.Tensor]:
        scale = tf.gather(tf.constant(own, tf.float32), tf.reshape(member, []))
        features = tf.nn.conv2d(image, tf.constant(shared, tf.float32), 1, "SAME")
        both = tf.concat([tf.nn.relu(features), image * scale], axis=-1)
        return {"logits": tf.reduce_mean(both, axis=[1, 2]) @ tf.constant(head, tf.float32)}

    signature = [
        tf.TensorSpec([1, 6, 6, 3], tf.float32, name="image"),
        tf.TensorSpec([1], tf.int32, name="member"),
    ]
    function = tf.function(compute, input_signature=signature)
    module = read(convert_function(function, []))
    module.members, module.layout = 2, layout
    run_pipeline(module)
    first, last = module.graphs[0], module.graphs[-1]
    assert last.signature.inputs.keys() == {"features_0", *first.signature.inputs}
    assert not last.find("CONV_2D")
    tflite = tf.lite.Interpreter(model_content=write(module))
    image = draw.uniform(0, 255, (1, 6, 6, 3)).astype(np.float32)
    common = tflite.get_signature_runner("prefix")(image=image)
    for member in range(2):
        number = np.array([member], np.int32)
        inputs = {"image": image, **common}
        if layout == "indexed":
            inputs["member"] = number
        run = tflite.get_signature_runner("rest" if layout == "indexed" else f"rest_{member}")
        expected = compute(tf.constant(image), tf.constant(number))["logits"]
        np.testing.assert_allclose(run(**inputs)["logits"], expected, rtol=1e-4)


def test_a_shared_scale_is_unpacked_where_it_is_read(tmp_path: Path) -> None:
    """What works on constants only is in each part that reads it: here half floats of the image's
    size, which a DEQUANTIZE converts."""
    mask = np.random.default_rng(0).integers(0, 9, (1, 12, 12, 3)).astype(np.float32)
    own = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
    filters = np.random.default_rng(2).normal(size=(3, 3, 3, 3)).astype(np.float32)

    def compute(image: tf.Tensor, member: tf.Tensor) -> dict[str, tf.Tensor]:
        common = tf.nn.conv2d(image * mask, filters, 1, "SAME")
        scaled = common * tf.gather(own, tf.reshape(member, []))
        return {"logits": tf.reduce_mean(tf.nn.relu(scaled) * mask, axis=[1, 2])}

    signature = [
        tf.TensorSpec([1, 12, 12, 3], tf.float32, name="image"),
        tf.TensorSpec([1], tf.int32, name="member"),
    ]
    module = read(convert_function(tf.function(compute, input_signature=signature), []))
    module.members = 2
    run_pipeline(module)
    assert len(module.graphs) == 3
    for graph in module.graphs:
        assert len(graph.find("DEQUANTIZE")) == 1


@BOTH
def test_a_cut_file_has_what_a_conversion_of_fewer_has(
    layout: str, small_case: SmallCase, tmp_path: Path
) -> None:
    case = small_case(layout=layout)
    expected = EnsembleInterpreter(case.path).predict_logits(pixels(3, (16, 16, 3)))
    for members in (2, 1):
        cut_file(case.path, tmp_path / "cut.tflite", members)
        file = read_ensemble(tmp_path / "cut.tflite")
        assert (file.trunk is None) == (members == 1)  # there is nobody to share with
        ours = EnsembleInterpreter(tmp_path / "cut.tflite")
        logits = ours.predict_logits(pixels(3, (16, 16, 3)))
        assert logits.tobytes() == expected[:members].tobytes()


@BOTH
def test_files_without_a_trunk_run_as_before(
    layout: str, small_case: SmallCase, tmp_path: Path
) -> None:
    case = small_case(layout=layout)
    images = pixels(3, (16, 16, 3))
    expected = EnsembleInterpreter(case.path).predict_logits(images)
    before = without_trunk(case.path, tmp_path / "before.tflite")
    assert read_ensemble(before).trunk is None
    assert EnsembleInterpreter(before).predict_logits(images).tobytes() == expected.tobytes()
    cut_file(before, tmp_path / "cut.tflite", 2)
    assert read_ensemble(tmp_path / "cut.tflite").trunk is None
    cut = EnsembleInterpreter(tmp_path / "cut.tflite").predict_logits(images)
    assert cut.tobytes() == expected[:2].tobytes()


@BOTH
def test_the_trunk_runs_once_an_image(
    layout: str, small_case: SmallCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, path = small_case(layout=layout), tmp_path / "cascade.tflite"
    images, load = pixels(8, (16, 16, 3)), lce.load_model
    # Half of the images stop at the first member, the others never.
    margins = log_margin(EnsembleInterpreter(case.path, members=1).predict(images))
    cascade = Cascade((float(np.median(margins)), None))
    file = read_ensemble(case.path)
    metadata = dataclasses.replace(file.metadata, cascade=cascade)
    path.write_bytes(with_metadata(file.data, metadata))
    runs: list[str] = []

    class Counted:
        def __init__(self, model: Any) -> None:
            self._model = model

        def predict(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
            runs.append("trunk" if (1, 16, 16, 3) in {x.shape for x in inputs} else "rest")
            return self._model.predict(inputs)

    monkeypatch.setattr(lce, "load_model", lambda *arguments: Counted(load(*arguments)))
    ensemble = EnsembleInterpreter(path, kernel="default")
    ensemble.predict(images)
    assert runs == 8 * ["trunk", "rest", "rest", "rest"]
    runs.clear()
    adaptive = ensemble.predict_adaptive(images)
    assert sorted(adaptive.members) == 4 * [1] + 4 * [3]
    assert (runs.count("trunk"), runs.count("rest")) == (8, 4 * 1 + 4 * 3)


@pytest.mark.parametrize("what", ["feature", "prefix", "rest", "order"])
def test_parts_that_do_not_fit_are_refused(fusion: Converted, tmp_path: Path, what: str) -> None:
    module = read(fusion.path.read_bytes())
    _, trunk, rest = (graph.signature for graph in module.graphs)
    if what == "feature":
        rest.inputs["features_1"] = rest.inputs.pop("features_0")
    elif what == "order":
        module.graphs.reverse()
    else:
        {"prefix": trunk, "rest": rest}[what].key = "other"
    path = tmp_path / "other.tflite"
    path.write_bytes(seal(write(module)))
    with pytest.raises(EnsembleError, match=r"doesn't have the graphs .* in the layout 'indexed'"):
        read_ensemble(path)


def indexed(*, costly: bool = True, members: int = 2) -> Module:
    """A convolution of the image, scaled by each member's own values."""
    build = Builder()
    image, member = build.input("image", 1, 4, 4, 2), build.member()
    common = image
    if costly:
        filters, bias = build.constant(normal(3, 3, 3, 2)), build.constant(normal(3))
        common = build.op("CONV_2D", image, filters, bias, shape=(1, 4, 4, 3), strideH=1, strideW=1)
    common = build.op("RELU", common)
    scaled = build.op("MUL", common, build.lookup(normal(members, common.shape[-1]), member))
    return build.module(members=members, logits=build.op("TANH", scaled))


def test_the_graph_is_divided() -> None:
    module = indexed()
    assert shared_trunk.run(module)["trunk_operators"] == 2
    verify(module, no_dead_code=True)
    complete, trunk, rest = module.graphs
    assert names(trunk) == ["CONV_2D", "RELU"]
    assert names(rest) == ["RESHAPE", "GATHER", "MUL", "TANH"]
    assert [graph.signature.key for graph in module.graphs] == ["serving_default", "prefix", "rest"]
    image = normal(1, 4, 4, 2, seed=1)
    features = run(module, 1, image=image)
    for member in range(2):
        ours = run(module, 2, member=of_member(member), **features)["logits"]
        expected = run(module, image=image, member=of_member(member))["logits"]
        assert ours.tobytes() == expected.tobytes()
    assert drop_parts(module)
    assert module.graphs == [complete]


@pytest.mark.parametrize("options", [{"costly": False}, {"members": 1}])
def test_nothing_to_divide(options) -> None:
    module = indexed(**options)
    assert not shared_trunk.run(module)
    assert len(module.graphs) == 1
