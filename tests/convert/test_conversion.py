"""The converted file computes what each Keras member computes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.convert.conversion import convert_ensemble
from larq_ensemble.convert.cutting import cut_file
from larq_ensemble.convert.frontend import lowerings
from larq_ensemble.convert.frontend.lce import convert_function
from larq_ensemble.convert.inspection import inspect_file
from larq_ensemble.ensembles import build_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.ir.schema import schema
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.layers import RPReLU, RSign
from larq_ensemble.models import build_model
from larq_ensemble.runtime import EnsembleInterpreter

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
    small_ensemble,
)


def constants_of(path: Path) -> list[np.ndarray]:
    tensors = read(path.read_bytes()).graphs[0].tensors
    return [tensor.data for tensor in tensors if tensor.data is not None]


def test_each_member_equals_its_keras_original(fusion: Converted) -> None:
    assert_members_agree(fusion, pixels(60, (16, 16, 3)))


@pytest.mark.parametrize("sharing", ["all_frozen", "c1", "c2"])
def test_policies_that_share_all_binary_filters(sharing: str, small_case: SmallCase) -> None:
    case = small_case(2, sharing)
    assert_members_agree(case, pixels(40, (16, 16, 3)))
    assert inspect_file(case.path).binary_filter_copies == 1


def test_the_gradient_of_prelu_leaves_no_trace(tmp_path) -> None:
    files = []
    for rule in ("zero", "slope"):
        model = randomized(build_ensemble(shared_backbone(prelu_gradient=rule), 2))
        files.append(converted(model, tmp_path, layout="subgraphs").path.read_bytes())
    assert files[0] == files[1]


def test_single_member(small_case: SmallCase) -> None:
    assert_members_agree(small_case(1), pixels(40, (16, 16, 3)))


def test_the_converter_takes_no_notes(monkeypatch) -> None:
    """LCE's converter reports each of its steps on standard error, a dozen lines a file."""
    heard = []

    def convert(folder: str) -> bytes:
        heard.append(os.environ["TF_CPP_MIN_LOG_LEVEL"])
        raise ValueError("It can't.")

    monkeypatch.setattr("larq_compute_engine.convert_saved_model", convert)
    function = tf.function(lambda x: {"y": x}, input_signature=[tf.TensorSpec([1])])
    for chosen in (None, "0", "3"):
        if chosen is None:
            monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
        else:  # the user wants to see more, or less
            monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", chosen)
        with pytest.raises(EnsembleError, match="can't convert the network: It can't"):
            convert_function(function, [])
        assert os.environ.get("TF_CPP_MIN_LOG_LEVEL") == chosen
    assert heard == ["1", "0", "3"]


def test_foreign_larq_model(tmp_path) -> None:
    model = randomized(build_ensemble(foreign_backbone(), 2, scheme="voting"))
    case = converted(model, tmp_path)
    assert_members_agree(case, pixels(40, (12, 10, 1)))
    assert inspect_file(case.path).ops["LceBconv2d"] == 2


def test_quicknet(tmp_path) -> None:
    """Another architecture of Larq users: from Keras to a file that agrees with it."""
    backbone = quicknet_backbone()
    model = randomized(build_ensemble(backbone, 3, scheme="voting"))
    convolutions = {
        layer.name for layer in backbone.layers if "conv" in type(layer).__name__.lower()
    }
    shared = {layer.name for layer in model.shared_layers()}
    assert shared == convolutions
    assert len(convolutions) == 7
    case = converted(model, tmp_path)
    assert_members_agree(case, pixels(40, (24, 24, 3)))
    report = inspect_file(case.path)
    assert report.ops["LceBconv2d"] == 2
    assert report.binary_filter_copies == 1


@pytest.mark.parametrize("name", ["resnet18", "birealnet18", "reactnet10"])
def test_the_papers_other_networks(name: str, tmp_path) -> None:
    backbone = build_model(name, input_shape=(16, 16, 3), classes=5, width=1 / 16)
    case = converted(randomized(build_ensemble(backbone, 2)), tmp_path)
    assert_members_agree(case, pixels(30, (16, 16, 3)))
    report = inspect_file(case.path)
    # ReActNet's members own their binarized 1x1 shortcuts: a subgraph each.
    layout, convolutions = ("subgraphs", 2 * (8 + 3)) if name == "reactnet10" else ("indexed", 16)
    assert case.report.layout == layout
    assert report.ops["LceBconv2d"] == convolutions
    assert report.binary_filter_copies == 1


def test_rsign_and_rprelu_of_each_member(tmp_path) -> None:
    """Thresholds, shifts and slopes large enough that a mix-up would show."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(16, 3, padding="same", name="conv")(inputs)
    x = RPReLU(name="rprelu")(x)
    x = RSign(name="rsign")(x)
    binary = {"kernel_quantizer": "magnitude_aware_sign", "use_bias": False}
    x = lq.layers.QuantConv2D(16, 3, padding="same", name="binary", **binary)(x)
    x = RPReLU(name="rprelu_out")(x)
    backbone = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Flatten()(x)))
    model = randomized(build_ensemble(backbone, 2))
    draw = np.random.default_rng(0)
    for member in range(2):
        for name in ("rsign", "rprelu", "rprelu_out"):
            layer = model.get_layer(f"member_{member}_{name}")
            layer.set_weights([draw.normal(0, 1, weight.shape) for weight in layer.get_weights()])
    case = converted(model, tmp_path)
    assert_members_agree(case, pixels(40, (8, 8, 3)))
    ops = inspect_file(case.path).ops
    assert ops["PRELU"] == 2
    assert ops["LceQuantize"] == ops["LceBconv2d"] == 1


@pytest.mark.parametrize("channels", [32, 40])
def test_own_binarized_1x1_convolutions(channels: int, tmp_path) -> None:
    """ReActNet's downsampling is each member's own: its filters are looked up as bits."""
    binary = {"input_quantizer": "ste_sign", "kernel_quantizer": "magnitude_aware_sign"}
    inputs = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(channels, 3, padding="same", name="stem")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    y = lq.layers.QuantConv2D(64, 3, strides=2, padding="same", name="main", **binary)(x)
    x = keras.layers.AveragePooling2D(2, name="pool")(x)
    x = lq.layers.QuantConv2D(64, 1, name="down", **binary)(x)
    x = keras.layers.Flatten()(keras.layers.BatchNormalization(name="norm_out")(x + y))
    backbone = keras.Model(inputs, keras.layers.Dense(5, name="logits")(x))
    model = randomized(build_ensemble(backbone, 3, sharing=["stem", "main"]))
    # Filters that differ in sign and magnitude, some exactly zero (sign(0) = +1).
    draw = np.random.default_rng(0)
    for member in range(3):
        layer = model.get_layer(f"member_{member}_down")
        kernel = draw.normal(0, 1 + member, layer.kernel.shape)
        kernel[0, 0, :2] = 0
        layer.kernel.assign(kernel)
    case = converted(model, tmp_path, layout="indexed")
    assert_members_agree(case, pixels(40, (12, 12, 3)))
    words = -(-channels // 32)
    table = 3 * 64 * words * 4
    constants = {id(data): data for data in constants_of(case.path)}.values()
    (bits,) = [data for data in constants if data.size == table]
    kernel = model.get_layer("member_1_down").kernel.numpy()
    words_of_member = bits.view("<u4").reshape(3, 64, words)[1]
    for filter_, channel in [(0, 0), (1, 0), (0, 2), (5, 31), (63, channels - 1)]:
        bit = words_of_member[filter_, channel // 32] >> (channel % 32) & 1
        assert bit == (kernel[0, 0, channel, filter_] < 0)


@pytest.mark.parametrize("size", [4, 2, 1])
def test_maps_smaller_than_the_filter(size: int, tmp_path) -> None:
    """LCE 0.16.0 miscomputes zero-padded binary convolutions of 2x2 and 1x1 inputs.

    The second block halves the maps.
    """
    backbone = small_backbone(size=size)
    case = converted(randomized(build_ensemble(backbone, 2)), tmp_path)
    assert_members_agree(case, pixels(40, (size, size, 3)))
    assert inspect_file(case.path).ops["LceBconv2d"] == 4


def test_zero_padding_before_strided_convolutions(tmp_path) -> None:
    """LCE 0.16.0 takes this for padding="same", which pads other sides of an even input."""
    inputs = keras.Input((12, 16, 3))
    x = keras.layers.ZeroPadding2D(1, name="pad_a")(inputs)
    x = keras.layers.Conv2D(32, 3, strides=2, name="first")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ZeroPadding2D(1, name="pad_b")(lq.quantizers.SteSign()(x))
    x = lq.layers.QuantConv2D(16, 3, strides=2, kernel_quantizer="ste_sign", name="second")(x)
    x = keras.layers.Flatten()(x)
    model = build_ensemble(keras.Model(inputs, keras.layers.Dense(6)(x)), 2)
    case = converted(randomized(model), tmp_path)
    assert_members_agree(case, pixels(30, (12, 16, 3)))


def test_independent_inputs(tmp_path) -> None:
    model = small_ensemble(2, scheme="bagging", independent_inputs=True, jitter=0.1)
    case = converted(model, tmp_path)
    images = pixels(30, (16, 16, 3))
    normalized = ((images / 255 - MEAN) / STD).astype(np.float32)
    *expected, _ = model([normalized] * 2, training=False)
    ours = EnsembleInterpreter(case.path).predict_logits(images)
    assert (np.stack(expected).argmax(-1) == ours.argmax(-1)).mean() >= 0.95


def test_a_lowering_can_be_registered(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shift(keras.layers.Layer):
        def build(self, input_shape) -> None:
            self.shift = self.add_weight(name="bias", shape=input_shape[-1:])

        def call(self, inputs):
            return inputs + self.shift

    class ShiftLowering(lowerings.Lowering):
        def values(self, layer):
            return {"shift": layer.shift.numpy()}

        def apply(self, layer, x, rows):
            return x + rows["shift"]

    monkeypatch.setitem(lowerings.LOWERINGS, Shift, ShiftLowering())
    inputs = keras.Input((16, 16, 3))
    x = Shift(name="shift")(keras.layers.Conv2D(8, 3, name="conv")(inputs))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    with keras.utils.custom_object_scope({"Shift": Shift}):
        model = build_ensemble(keras.Model(inputs, keras.layers.Dense(4)(x)), 2)
    assert_members_agree(converted(randomized(model), tmp_path), pixels(20, (16, 16, 3)))


def test_conversion_leaves_the_model_as_it_was(fusion: Converted, tmp_path) -> None:
    layer = next(layer for layer in fusion.model.layers if isinstance(layer, lq.layers.QuantConv2D))
    calls = len(layer.inbound_nodes)
    weights = [weight.numpy() for weight in fusion.model.weights]
    converted(fusion.model, tmp_path)
    assert len(layer.inbound_nodes) == calls
    for before, after in zip(weights, fusion.model.weights, strict=True):
        np.testing.assert_array_equal(before, after.numpy())


def test_one_table_and_one_split(fusion: Converted) -> None:
    ops = inspect_file(fusion.path).ops
    # One GATHER for all vectors, one for the linear layers' matrices.
    assert ops["GATHER"] == 2
    assert ops["SPLIT_V"] == 1


def test_lower_bound_by_hand(tmp_path) -> None:
    model = build_ensemble(build_model("resnet20", input_shape=(32, 32, 3), classes=100), 4)
    # A network whose norms are all as initialized would be converted twice.
    norms = (layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization))
    next(norms).moving_mean.assign_add(tf.ones(16))
    # Equal heads would be stored and counted once.
    for head in (layer for layer in model.layers if isinstance(layer, keras.layers.Dense)):
        head.kernel.assign_add(tf.random.normal(head.kernel.shape, stddev=0.1))
    case = converted(model, tmp_path)
    report = case.report
    binary = 9 * (6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64) // 8
    stem_and_shortcuts = 4 * (27 * 16 + 16 * 32 + 32 * 64)
    filter_scales = 4 * 6 * (16 + 32 + 64)
    # Three norms a block; the first of a stage is as wide as the stage before; stem, shortcuts.
    norms = 9 * 16 + (16 + 8 * 32) + (32 + 8 * 64) + 16 + 32 + 64
    member = 4 * (2 * norms + 27 + 64 * 100 + 100)
    assert report.lower_bound_bytes == binary + stem_and_shortcuts + filter_scales + 4 * member
    assert report.lower_bound_bytes == 33_408 + 11_968 + 2_688 + 4 * 34_684
    assert report.bytes == (tmp_path / "ensemble.tflite").stat().st_size
    assert report.ratio == report.bytes / report.lower_bound_bytes <= 1.06
    # Ten members: 1.06 times the lower bound (394,904 bytes), and 230 kB with int8 heads.
    for options, of_ten, of_one in (
        ({}, 1.06 * 394_904, 35_000),
        ({"heads": "int8"}, 230_000, 16_500),
        ({"heads": "int8", "precision": "compact"}, 160_000, 8_000),
    ):
        whole = converted(model, tmp_path, **options) if options else case
        fewer = cut_file(whole.path, tmp_path / "three.tflite", 3)
        further = whole.report.bytes - fewer.bytes
        assert further <= of_one
        assert whole.report.bytes + 6 * further <= of_ten


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": [0.5]}, r"`mean` must hold 3 numbers.*\[0.5\]"),
        ({"std": [0.1, 0.2, 0.0]}, r"`std` must be positive"),
        ({"mean": [0.1, float("nan"), 0.2]}, r"`mean` must hold 3 numbers"),
        ({"class_names": ["only one"]}, r"`class_names` must be 7 strings"),
    ],
)
def test_bad_arguments_write_nothing(fusion: Converted, tmp_path, change, message) -> None:
    path = tmp_path / "out.tflite"
    path.write_bytes(b"precious")
    arguments = {"mean": MEAN, "std": STD, **change}
    with pytest.raises(EnsembleError, match=message):
        convert_ensemble(fusion.model, path, **arguments)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_model_that_is_no_ensemble(tmp_path) -> None:
    with pytest.raises(EnsembleError, match="not an ensemble"):
        convert_ensemble(foreign_backbone(), tmp_path / "out.tflite", mean=MEAN, std=STD)


def test_constants_are_aligned(fusion: Converted) -> None:
    model = schema().Model.GetRootAsModel(fusion.path.read_bytes(), 0)
    buffers = [model.Buffers(index) for index in range(model.BuffersLength())]
    constants = [buffer.DataAsNumpy() for buffer in buffers if buffer.DataLength()]
    assert len(constants) > 10
    # The arrays are views of the bytes that were read, so their addresses tell the offsets.
    start = np.frombuffer(model._tab.Bytes, np.uint8).ctypes.data
    assert all((constant.ctypes.data - start) % 16 == 0 for constant in constants)


def test_prelus_are_fused(fusion: Converted) -> None:
    ops = [op.name for op in read(fusion.path.read_bytes()).graphs[0].operators]
    in_thresholds = inspect_file(fusion.path).metadata["rewrites"]["threshold_prelus"]
    assert ops.count("PRELU") == 6 - in_thresholds
    assert not {"NEG", "RELU", "SUB"} & set(ops)
