"""Every sharing policy converts, in every layout, and each different filter is stored once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from larq_ensemble.convert.frontend.lce import convert_function
from larq_ensemble.convert.inspection import inspect_file
from larq_ensemble.convert.pipeline import run_pipeline
from larq_ensemble.convert.verification import verify
from larq_ensemble.ensembles.building import build_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.ir.schema import schema
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.backends.lce import load_extension
from larq_ensemble.runtime.calibration import calibrate
from larq_ensemble.runtime.file import seal

from .conftest import (
    MEAN,
    STD,
    Converted,
    SmallCase,
    assert_members_agree,
    converted,
    foreign_backbone,
    pixels,
    quicknet_backbone,
    randomized,
    shared_backbone,
    small_backbone,
)

SUBGRAPHS_AND_BRANCHES = pytest.mark.parametrize("layout", ["subgraphs", "branches"])


@SUBGRAPHS_AND_BRANCHES
def test_layouts_of_constants(small_case: SmallCase, layout: str) -> None:
    """Members decide as before; scales in the convolutions round other than those behind them."""
    images = pixels(60, (16, 16, 3))
    case = small_case(layout=layout)
    assert case.report.layout == layout
    assert_members_agree(case, images)
    interpreter = EnsembleInterpreter(case.path)
    assert interpreter.metadata.layout == layout
    expected = interpreter.predict_logits(images)
    # Fewer members, and the first after others have run.
    assert interpreter.predict_logits(images, 1).tobytes() == expected[:1].tobytes()
    interpreter.members = 2
    assert interpreter.predict_logits(images).tobytes() == expected[:2].tobytes()
    assert inspect_file(case.path).binary_filter_copies == 1


def test_layouts_of_constants_agree_to_the_bit(small_case: SmallCase) -> None:
    images = pixels(20, (16, 16, 3))
    logits = [
        EnsembleInterpreter(small_case(layout=layout).path).predict_logits(images)
        for layout in ("subgraphs", "branches")
    ]
    assert logits[0].tobytes() == logits[1].tobytes()


def test_members_by_need_and_by_time(
    fusion: Converted, small_case: SmallCase, tmp_path: Path
) -> None:
    """A graph per member can stop early; one graph for all can't, and says so."""
    images, labels = pixels(40, (16, 16, 3)), np.arange(40) % 7
    subgraphs, branches = (
        shutil.copy(small_case(layout=layout).path, tmp_path / f"{layout}.tflite")
        for layout in ("subgraphs", "branches")
    )
    answers = []
    for path in (shutil.copy(fusion.path, tmp_path), subgraphs, branches):
        calibrate(path, images, labels, mean_members=2)
        interpreter = EnsembleInterpreter(path, max_latency_ms=1e6)
        assert interpreter.members == 3
        if path != branches:
            answers.append(interpreter.predict_adaptive(images))
    for one, other in zip(*answers):
        assert np.isclose(one, other, atol=1e-3).mean() > 0.95
    with pytest.raises(EnsembleError, match=r"'branches' runs all members at once"):
        interpreter.predict(images, adaptive=True)
    # All members take the time of one: fewer would not be faster.
    with pytest.warns(UserWarning, match="more than"):
        interpreter.set_budget(max_latency_ms=1e-6)
    assert interpreter.members == 3


@pytest.mark.parametrize(("sharing", "own"), [("c3", 2), ("none", 4)])
def test_own_binary_filters(sharing: str, own: int, small_case: SmallCase) -> None:
    """Three members with two blocks, of whose two convolutions each owns the last or both."""
    case = small_case(3, sharing, layout="auto")
    images = pixels(40, (16, 16, 3))
    assert case.report.layout == "subgraphs"
    assert_members_agree(case, images)
    report = inspect_file(case.path)
    assert report.ops["LceBconv2d"] == 3 * 4
    assert report.binary_filter_copies == 1
    assert len(report.binary_filters) == 4 - own + 3 * own
    assert "GATHER" not in report.ops
    assert "LceDequantize" not in report.ops  # no bits are unpacked to floats
    branches = small_case(3, sharing, layout="branches").path
    assert (
        EnsembleInterpreter(branches).predict_logits(images).tobytes()
        == EnsembleInterpreter(case.path).predict_logits(images).tobytes()
    )


def test_own_filters_with_compact_values(small_case: SmallCase) -> None:
    """LceBconv2d's multiplier is computed in the graph then, and any kernel must read it right."""
    options = {"precision": "compact", "heads": "int8"}
    images = pixels(10, (16, 16, 3))
    looked_up = small_case(2, "c3", layout="indexed", **options)
    expected = EnsembleInterpreter(looked_up.path).predict_logits(images)
    case = small_case(2, "c3", **options)
    np.testing.assert_allclose(
        EnsembleInterpreter(case.path).predict_logits(images), expected, rtol=1e-4, atol=1e-4
    )
    data = case.path.read_bytes()
    for reference, indirect in ((True, False), (False, False), (False, True)):
        interpreter = load_extension().LiteInterpreter(data, 1, reference, indirect, False)
        ours = [interpreter.predict([image[np.newaxis].astype(np.float32)]) for image in images]
        np.testing.assert_allclose(np.concatenate(ours)[:, 0], expected[0], rtol=1e-4, atol=1e-4)


def test_every_byte_of_subgraphs_is_accounted_for(small_case: SmallCase) -> None:
    indexed = inspect_file(small_case(3, "c3", layout="indexed").path).categories
    case = small_case(3, "c3", layout="auto")
    categories = inspect_file(case.path).categories
    assert sum(categories.values()) == case.path.stat().st_size
    for name in ("binary_filters", "filter_padding", "batch_norm", "activations", "heads"):
        assert categories[name] == indexed[name] > 0, name


def test_own_binary_filters_by_lookup(small_case: SmallCase) -> None:
    """One graph is possible too: own filters are unpacked and computed with as floats."""
    case = small_case(2, "c3", layout="indexed")
    assert_members_agree(case, pixels(40, (16, 16, 3)))
    report = inspect_file(case.path)
    assert report.ops["LceBconv2d"] == 2
    assert report.ops["CONV_2D"] == 2 + 2


@pytest.mark.parametrize(
    "options",
    [
        {"scheme": "stochastic_rounding"},
        {"scheme": "bagging", "sharing": "none", "initial": "random"},  # BENN
    ],
)
def test_schemes_with_own_filters(options: dict[str, Any], tmp_path: Path) -> None:
    model = build_ensemble(shared_backbone(), 2, **options)
    draw = np.random.default_rng(0)
    for layer in model.layers:  # norms that differ, filters as they were drawn
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([draw.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    case = converted(model, tmp_path)
    assert case.report.layout == "subgraphs"
    report = verify(model, case.path, pixels(40, (16, 16, 3)), mean=MEAN, std=STD)
    assert min(report.member_argmax_agreement) >= 0.95
    assert report.ensemble_argmax_agreement >= 0.95
    assert len(inspect_file(case.path).binary_filters) == 2 * 4


def test_equal_filters_of_members_are_stored_once(tmp_path: Path) -> None:
    case = converted(build_ensemble(shared_backbone(), 2, sharing="c3"), tmp_path)
    report = inspect_file(case.path)
    assert (len(report.binary_filters), report.binary_filter_copies) == (4, 1)


@pytest.mark.parametrize("backbone", [foreign_backbone, quicknet_backbone])
def test_independent_networks_of_larq_users(backbone, tmp_path: Path) -> None:
    """One-padding, a fused ReLU, filters without scales, depthwise convolutions."""
    network = backbone()
    model = randomized(build_ensemble(network, 2, sharing="none", scheme="voting"))
    case = converted(model, tmp_path)
    assert_members_agree(case, pixels(40, network.input_shape[1:]))
    ops = inspect_file(case.path).ops
    assert ops["LceBconv2d"] == 2 * 2
    assert not {"PADV2", "LceDequantize"} & set(ops)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "same"},
        {"padding": "same", "strides": 2, "pad_values": 1},
        {"padding": "same", "strides": (2, 1), "dilation_rate": 1, "activation": "relu"},
        {"dilation_rate": 2, "use_bias": True, "activation": "relu"},
        {"kernel_quantizer": "magnitude_aware_sign", "padding": "same", "activation": "relu"},
        {"kernel_quantizer": "magnitude_aware_sign", "padding": "same", "dilation_rate": (1, 2)},
    ],
)
def test_own_convolutions_of_all_kinds(options: dict[str, Any], tmp_path: Path) -> None:
    """Norms of both signs follow, so a scale that goes into the convolution may be negative."""
    inputs = keras.Input((9, 10, 3))
    x = keras.layers.BatchNormalization(name="norm")(inputs)
    binary = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign", "use_bias": False}
    x = lq.layers.QuantConv2D(40, 3, name="binary", **(binary | options))(x)
    x = keras.layers.BatchNormalization(name="norm_out")(x)
    x = keras.layers.Flatten()(keras.layers.PReLU(name="prelu")(x))
    backbone = keras.Model(inputs, keras.layers.Dense(5, name="logits")(x))
    model = randomized(build_ensemble(backbone, 2, sharing="none", scheme="voting"))
    gamma = model.get_layer("member_0_norm_out").gamma.numpy()
    model.get_layer("member_0_norm_out").gamma.assign(np.where(np.arange(40) % 2, gamma, -gamma))
    case = converted(model, tmp_path)
    images = pixels(20, (9, 10, 3))
    assert_members_agree(case, images)
    np.testing.assert_allclose(
        EnsembleInterpreter(case.path).predict_logits(images), case.logits(images), rtol=1e-3,
        atol=1e-3,
    )  # fmt: skip
    assert inspect_file(case.path).ops["LceBconv2d"] == 2


def test_maps_smaller_than_an_own_filter(tmp_path: Path) -> None:
    """LCE 0.16.0 miscomputes those with zero padding: they stay convolutions with floats."""
    backbone = small_backbone(size=4, widths=(8, 16, 32))
    case = converted(randomized(build_ensemble(backbone, 2, sharing="c3")), tmp_path)
    assert_members_agree(case, pixels(40, (4, 4, 3)))
    report = inspect_file(case.path)
    # Of the maps 4x4, 2x2 and 1x1 only the first is large enough; the three others are shared.
    assert report.ops["LceBconv2d"] == 2 * (3 + 1)
    assert report.ops["LceDequantize"] == 2 * 2 * 2


def test_real_valued_inputs_of_own_binary_filters(tmp_path: Path) -> None:
    """Not for LceBconv2d: computed with floats, from filters that are stored as bits."""
    inputs = keras.Input((8, 8, 3))
    x = lq.layers.QuantConv2D(32, 3, kernel_quantizer="ste_sign", name="first")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = lq.layers.QuantConv2D(
        16, 3, input_quantizer="ste_sign", kernel_quantizer="ste_sign", name="second"
    )(x)
    backbone = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Flatten()(x)))
    case = converted(randomized(build_ensemble(backbone, 2, sharing="none")), tmp_path)
    assert_members_agree(case, pixels(20, (8, 8, 3)))
    ops = inspect_file(case.path).ops
    assert (ops["CONV_2D"], ops["LceDequantize"], ops["LceBconv2d"]) == (2, 2, 2)


def test_own_binarized_dense_layer(tmp_path: Path) -> None:
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Flatten()(keras.layers.Conv2D(8, 3, name="conv")(inputs))
    x = lq.layers.QuantDense(
        24, input_quantizer="ste_sign", kernel_quantizer="magnitude_aware_sign", name="binary"
    )(x)
    backbone = keras.Model(inputs, keras.layers.Dense(5, name="logits")(x))
    case = converted(randomized(build_ensemble(backbone, 2, sharing=["conv"])), tmp_path)
    assert_members_agree(case, pixels(30, (6, 6, 3)))
    tensors = read(case.path.read_bytes()).graphs[0].tensors
    assert 2 * 24 * 128 // 8 in [t.data.size for t in tensors if t.data is not None]


def test_subgraphs_share_all_but_constants(small_case: SmallCase) -> None:
    case = small_case(3, "c3", layout="auto")
    data = case.path.read_bytes()
    graphs = read(data).graphs
    signatures = [graph.signature for graph in graphs]
    assert [signature.key for signature in signatures] == [
        "member_0", "member_1", "member_2", "prefix", "rest_0", "rest_1", "rest_2",
    ]  # fmt: skip
    for signature in signatures[:3]:
        assert [*signature.inputs] == ["image"]
        assert [*signature.outputs] == ["logits"]
    tensors = [tensor for graph in graphs for tensor in graph.tensors]
    buffers = {id(tensor.data): tensor.data for tensor in tensors if tensor.data is not None}
    contents = [data.tobytes() for data in buffers.values()]
    assert len(contents) == len(set(contents))
    assert all(data.count(content) == 1 for content in contents if len(content) >= 64)
    # The same tables of operators, not equal ones: a member costs its values and a list of tensors.
    root = schema().Model.GetRootAsModel(data, 0)
    tables = [root.Subgraphs(member).Operators(0) for member in range(3)]
    assert len({table._tab.Pos for table in tables}) == 1
    sizes = [small_case(members, "c3", layout="auto").report for members in (2, 3)]
    own = sizes[1].lower_bound_bytes - sizes[0].lower_bound_bytes
    # 8 and 16 channels stand in words of 32 bits.
    padding = 9 * (8 * (32 - 8) + 16 * (32 - 16)) // 8
    tensors = 4 * len(graphs[0].tensors)
    # Two graphs and two signatures.
    assert sizes[1].bytes - sizes[0].bytes <= own + padding + tensors + 500


def test_branches_compute_what_is_shared_once(small_case: SmallCase) -> None:
    case = small_case(layout="branches")
    signature = read(case.path.read_bytes()).graph.signature
    assert [*signature.outputs] == ["logits_0", "logits_1", "logits_2"]
    ops = inspect_file(case.path).ops
    # The stem, and a shortcut for each member.
    assert ops["CONV_2D"] == 1 + 3
    assert ops["LceBconv2d"] == 3 * 4


def test_members_are_loaded_when_they_are_needed(small_case: SmallCase) -> None:
    case = small_case(3, "none", layout="auto")
    interpreter = EnsembleInterpreter(case.path, members=1)
    image = pixels(1, (16, 16, 3))

    def loaded() -> list[bool]:
        return [graph._run is not None for graph in interpreter._interpreter._members]

    interpreter.predict(image)
    assert loaded() == [True, False, False]
    interpreter.members = 3
    interpreter.predict(image)
    assert loaded() == [True, True, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((b'"layout":"subgraphs"', b'"layout":"branches" '), "2 members in the layout 'branches'"),
        ((b'"layout":"subgraphs"', b'"layout":"unheardof"'), "`layout` must be one of.*unheardof"),
        ((b'"members":2', b'"members":3'), "3 members in the layout 'subgraphs'"),
    ],
)
def test_files_of_another_form_are_refused(
    small_case: SmallCase, tmp_path: Path, change, message: str
) -> None:
    data = small_case(2, layout="subgraphs").path.read_bytes()
    assert data.count(change[0]) == 1
    path = tmp_path / "ensemble.tflite"
    path.write_bytes(seal(data.replace(*change)))
    with pytest.raises(EnsembleError, match=message):
        EnsembleInterpreter(path)


def test_unknown_layout(fusion: Converted, tmp_path: Path) -> None:
    with pytest.raises(EnsembleError, match=r"Unknown layout 'rows'. Known: auto, branches"):
        converted(fusion.model, tmp_path, layout="rows")
    assert not list(tmp_path.iterdir())


@SUBGRAPHS_AND_BRANCHES
def test_a_multiplier_that_depends_on_the_image_stays_outside(layout: str) -> None:
    """LceBconv2d reads its multiplier once; a scale computed from the image must be a MUL."""
    signs = np.random.default_rng(0).choice([-1, 1], (2, 8, 3, 3, 32)).astype(np.int8)

    def compute(image: tf.Tensor, member: tf.Tensor) -> dict[str, tf.Tensor]:
        filters = tf.cast(tf.gather(signs, tf.reshape(member, [])), tf.float32)
        bits = lq.quantizers.approx_sign(image)
        y = tf.nn.conv2d(bits, tf.transpose(filters, [1, 2, 3, 0]), 1, "SAME")
        scale = tf.reshape(tf.reduce_mean(image, axis=[1, 2]), [-1])[:8]
        return {"logits": tf.reduce_mean(y * scale, axis=[1, 2])}

    function = tf.function(
        compute,
        input_signature=[
            tf.TensorSpec([1, 6, 6, 32], tf.float32, name="image"),
            tf.TensorSpec([1], tf.int32, name="member"),
        ],
    )
    module = read(convert_function(function, []))
    module.members, module.layout = 2, layout
    run_pipeline(module)
    graph = module.graphs[0]
    assert graph.find("LceBconv2d")
    assert graph.find("MUL")
