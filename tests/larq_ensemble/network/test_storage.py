"""Storage against Tables 1 and 2 of the paper and against sums by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.cli import main
from larq_ensemble.errors import EnsembleError, UnknownNameError
from larq_ensemble.network.architectures import trace_model
from larq_ensemble.network.graph import Content, Kind, LayerGraph, LayerNode, Stored
from larq_ensemble.network.sharing import POLICIES
from larq_ensemble.network.storage import account, compare_systems

from ..conftest import tiny_backbone

TABLE_1 = {"conv1": 13_824, "layer1": 13_824, "layer2": 67_072, "layer3": 268_288}
POLICY_NAMES = ["fusion", "all_frozen", "c1", "c2", "c3", "none"]

# Bytes of XNOR-ResNet-20 with 100 classes, layer by layer from its description:
BINARY = (6 * 9 * 16 * 16 + (9 * 16 * 32 + 5 * 9 * 32 * 32) + (9 * 32 * 64 + 5 * 9 * 64 * 64)) // 8
SCALES = 4 * 6 * (16 + 32 + 64)
STEM = 4 * 9 * 3 * 16
SHORTCUTS = 4 * (16 * 32 + 32 * 64)
# Each block has a norm of its input's and two of its output's width; its shortcut, and the stem,
# one more. Each channel keeps a scale and an offset.
NORM_CHANNELS = 16 + 3 * 3 * 16 + (16 + 8 * 32 + 32) + (32 + 8 * 64 + 64)
NORMS = 4 * 2 * NORM_CHANNELS
SLOPES = 4 * 9 * 3
BIAS = 4 * 100
LINEAR = 4 * 64 * 100 + BIAS
LAST_CONVOLUTIONS = 3 * 9 * (16 * 16 + 32 * 32 + 64 * 64) // 8 + 4 * 3 * (16 + 32 + 64)

MEMBER_BYTES = {
    "fusion": NORMS + SLOPES + LINEAR,
    "all_frozen": NORMS + SLOPES + BIAS,
    "c1": NORMS + SLOPES + BIAS + STEM,
    "c2": NORMS + SLOPES + LINEAR + SHORTCUTS,
    "c3": NORMS + SLOPES + LINEAR + LAST_CONVOLUTIONS,
    "none": NORMS + SLOPES + LINEAR + BINARY + SCALES + STEM + SHORTCUTS,
}


@pytest.mark.parametrize(("classes", "linear"), [(10, 20_480), (100, 204_800)])
def test_paper_table_1(classes: int, linear: int) -> None:
    report = account(trace_model("resnet20", classes=classes), members=1)
    counted = {name: size.paper_bits for name, size in report.blocks.items()}
    assert counted == {**TABLE_1, "linear": linear}
    assert report.paper_bits == sum(TABLE_1.values()) + linear


@pytest.mark.parametrize("members", [1, 4])
def test_systems_of_the_paper(members: int) -> None:
    """Rounded filters are each member's; their scales, mean(|W|), and the rest stay shared."""
    real = STEM + SHORTCUTS + LINEAR + NORMS + SLOPES + 32 * BINARY
    own = MEMBER_BYTES["fusion"]
    systems = compare_systems(
        trace_model("resnet20", classes=100),
        trace_model("resnet20_real", classes=100),
        members=members,
    )
    assert {name: report.total_bits for name, report in systems.items()} == {
        "shared filters": 8 * (STEM + SHORTCUTS + SCALES + BINARY + members * own),
        "stochastic rounding": 8 * (STEM + SHORTCUTS + SCALES + members * (BINARY + own)),
        "BENN": 8 * members * (STEM + SHORTCUTS + SCALES + BINARY + own),
        "real-valued": 8 * members * real,
    }


def test_the_sums_by_hand() -> None:
    assert BINARY == 33_408
    assert (STEM + SHORTCUTS, SCALES) == (11_968, 2_688)
    assert MEMBER_BYTES["fusion"] == 34_684


@pytest.mark.parametrize("sharing", POLICY_NAMES)
@pytest.mark.parametrize("members", [1, 4, 10])
def test_device_bytes_of_each_policy(sharing: str, members: int) -> None:
    report = account(trace_model("resnet20", classes=100), members=members, sharing=sharing)
    network = BINARY + SCALES + STEM + SHORTCUTS + NORMS + SLOPES + LINEAR
    own = MEMBER_BYTES[sharing]
    assert report.member_bits == 8 * own
    assert report.shared_bits == 8 * (network - own)
    assert report.total_bits == 8 * (network - own + members * own)
    assert report.separate_bits == 8 * members * network


@pytest.mark.parametrize(
    ("sharing", "values"), [("fusion", 8671), ("all_frozen", 2271), ("c1", 2703), ("c2", 11231)]
)
def test_a_member_trains_as_many_values_as_in_the_logs_of_the_paper(
    sharing: str, values: int
) -> None:
    """Scale and offset of each normalized channel are trained, and as many values are stored."""
    report = account(trace_model("resnet20", classes=100), members=4, sharing=sharing)
    assert report.member_bits == 32 * values


def test_a_head_without_bias_has_none_to_keep_apart() -> None:
    weights = (Stored(Content.LINEAR, 4, 32),)
    graph = LayerGraph([LayerNode("in", Kind.INPUT), LayerNode("a", Kind.DENSE, ("in",), weights)])
    assert graph.with_head_bias_apart() is graph
    assert LayerGraph([LayerNode("in", Kind.INPUT)]).with_head_bias_apart().layers.keys() == {"in"}


def test_every_policy_is_tested() -> None:
    assert sorted(POLICIES) == sorted(POLICY_NAMES)


def wide_block(a: int, b: int, convolutions: int, shortcut_bits: int) -> int:
    """Paper bits of a stage from `a` to `b` channels: its binary 3x3 filters and its shortcut."""
    return 9 * a * b + (convolutions - 1) * 9 * b * b + shortcut_bits * a * b


# What the paper counts, by hand: a real 3x3x3 stem, a stage without and three with a shortcut
# (real, in ReActNet binary), a real linear layer.
PAPER_BITS = {
    # Table 2 of the paper.
    "resnet18": (55_296, 147_456, 778_240, 3_112_960, 12_451_840, 163_840),
    "birealnet18": (55_296, 147_456, 778_240, 3_112_960, 12_451_840, 163_840),
    "resnet32": (
        32 * 27 * 16,
        10 * 9 * 16 * 16,
        wide_block(16, 32, 10, 32),
        wide_block(32, 64, 10, 32),
        32 * 64 * 10,
    ),
    "resnet34": (
        32 * 27 * 64,
        6 * 9 * 64 * 64,
        wide_block(64, 128, 8, 32),
        wide_block(128, 256, 12, 32),
        wide_block(256, 512, 6, 32),
        32 * 512 * 10,
    ),
    "reactnet10": (
        32 * 27 * 64,
        2 * 9 * 64 * 64,
        wide_block(64, 128, 2, 1),
        wide_block(128, 256, 2, 1),
        wide_block(256, 512, 2, 1),
        32 * 512 * 10,
    ),
    # A 4x4 stem; the first convolution of the second stage has 64 input channels.
    "deploynet8": (
        32 * 48 * 64,
        2 * 9 * 64 * 64,
        9 * 64 * 128 + 3 * 9 * 128 * 128,
        32 * 128 * 10,
    ),
    # A 4x4 stem, two stages of one width.
    "deploynet9": (32 * 48 * 64, 3 * 9 * 64 * 64, 4 * 9 * 64 * 64, 32 * 64 * 10),
}
PAPER_BITS["birealnet34"] = PAPER_BITS["resnet34"]


@pytest.mark.parametrize("name", PAPER_BITS)
def test_paper_bits_of_other_networks(name: str) -> None:
    report = account(trace_model(name, classes=10), members=1)
    assert tuple(size.paper_bits for size in report.blocks.values()) == PAPER_BITS[name]


# Values that each member of a fusion ensemble keeps besides its linear layer, by hand: channels
# that are normalized, activation parameters, weights and scales of its own binary filters.
OWN_VALUES = {
    # A block from a to b channels normalizes a, b, b and in the shortcut b; others 3 times b.
    "resnet18": (
        64 + 6 * 64 + (64 + 6 * 128) + (128 + 6 * 256) + (256 + 6 * 512),
        8 * 3,
        0,
        0,
    ),
    "resnet32": (16 + 15 * 16 + (16 + 15 * 32) + (32 + 15 * 64), 15 * 3, 0, 0),
    "resnet34": (
        64 + 9 * 64 + (64 + 12 * 128) + (128 + 18 * 256) + (256 + 9 * 512),
        16 * 3,
        0,
        0,
    ),
    # Two norms in the stem, one a convolution and one a shortcut; no activation parameters.
    "birealnet18": (2 * 64 + 4 * 64 + 5 * (128 + 256 + 512), 0, 0, 0),
    "birealnet34": (2 * 64 + 6 * 64 + 9 * 128 + 13 * 256 + 7 * 512, 0, 0, 0),
    # A stage from a to b channels: thresholds for a, b and in the shortcut a; 2 x 3 b for RPReLU.
    "reactnet10": (
        64 + 2 * 64 + 3 * (128 + 256 + 512),
        (2 + 6) * 64 + (2 * 64 + 7 * 128) + (2 * 128 + 7 * 256) + (2 * 256 + 7 * 512),
        64 * 128 + 128 * 256 + 256 * 512,
        128 + 256 + 512,
    ),
    # Two norms per convolution, and a slope per channel.
    "deploynet8": (64 + 2 * 2 * 64 + (64 + 128) + 3 * 2 * 128, 2 * 64 + 4 * 128, 0, 0),
    "deploynet9": (64 + 7 * 2 * 64, 7 * 64, 0, 0),
}


@pytest.mark.parametrize("name", OWN_VALUES)
def test_device_bits_of_other_networks(name: str) -> None:
    norm_channels, activation, filters, scales = OWN_VALUES[name]
    features = {"resnet32": 64, "deploynet8": 128, "deploynet9": 64}.get(name, 512)
    linear = features * 100 + 100
    report = account(trace_model(name, classes=100), members=4)
    own = 32 * (2 * norm_channels + activation + scales + linear) + filters
    assert report.member_bits == own
    contents = {content.value: size.member_bits for content, size in report.contents.items()}
    assert contents["norm"] == 64 * norm_channels
    assert contents.get("activation", 0) == 32 * activation
    assert contents["binary_filter"] == filters
    # All else is the stem, real shortcuts and binary filters with a scale for each.
    channels = [layer.stored[1].count for layer in trace_model(name, classes=100) if layer.binary]
    assert report.shared_bits == sum(PAPER_BITS[name][:-1]) - filters + 32 * (
        sum(channels) - scales
    )


def test_reactnet_shares_the_3x3_filters_only() -> None:
    parts = account(trace_model("reactnet10", classes=10), members=3).parts
    binary = [part for part in parts if part.content is Content.BINARY_FILTER]
    own = {part.layer for part in binary if not part.shared}
    assert own == {f"layer{stage}_0_shortcut_conv" for stage in (2, 3, 4)}
    assert sum(part.bits for part in binary if part.shared) == 9 * (
        2 * 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 256 * 256 + 256 * 512 + 512 * 512
    )


def test_sizes_by_content() -> None:
    contents = account(trace_model("resnet20", classes=100), members=4).contents
    sizes = {
        content.value: (size.shared_bits // 8, size.member_bits // 8)
        for content, size in contents.items()
    }
    assert sizes == {
        "binary_filter": (BINARY, 0),
        "filter_scale": (SCALES, 0),
        "conv": (STEM + SHORTCUTS, 0),
        "norm": (0, NORMS),
        "activation": (0, SLOPES),
        "linear": (0, 4 * 6400),
        "bias": (0, 400),
    }


def test_the_count_of_the_paper_for_an_ensemble() -> None:
    report = account(trace_model("resnet20", classes=100), members=7)
    assert report.paper_total_bits == sum(TABLE_1.values()) + 7 * 204_800
    separate = account(trace_model("resnet20", classes=100), members=7, sharing="none")
    assert separate.paper_total_bits == 7 * separate.paper_bits


def test_real_valued_twin_takes_32_bits_a_weight() -> None:
    report = account(trace_model("resnet20_real", classes=10), members=1)
    assert report.paper_bits == 32 * (8 * BINARY) + 8 * (STEM + SHORTCUTS) + 20_480
    assert Content.BINARY_FILTER not in report.contents
    assert Content.FILTER_SCALE not in report.contents


def test_width_and_image_channels() -> None:
    graph = trace_model("resnet20", classes=10, input_shape=(32, 32, 1), width=0.5)
    half = account(graph, members=1)
    assert half.blocks["conv1"].paper_bits == 32 * 9 * 1 * 8
    assert half.blocks["layer1"].paper_bits == 6 * 9 * 8 * 8
    assert half.blocks["linear"].paper_bits == 32 * 32 * 10


def test_a_graph_by_hand() -> None:
    graph = LayerGraph(
        [
            LayerNode("in", Kind.INPUT),
            LayerNode("a_conv", Kind.CONV, ("in",), (Stored(Content.BINARY_FILTER, 9, 1),), (3, 3)),
            LayerNode("a_norm", Kind.NORM, ("a_conv",), (Stored(Content.NORM, 2, 32),)),
            LayerNode("b", Kind.DENSE, ("a_norm",), (Stored(Content.LINEAR, 4, 32),)),
        ]
    )
    report = account(graph, members=3)
    assert (report.shared_bits, report.member_bits, report.total_bits) == (9, 192, 9 + 3 * 192)
    assert list(report.blocks) == ["a", "b"]
    report = account(graph, members=3, sharing=["b", "a_.*"])
    assert (report.shared_bits, report.member_bits) == (201, 0)


def test_a_keras_model() -> None:
    """By hand: stem 3x3x3x4, binary 3x3x4x5 with 5 scales, 2 norms, 1 slope, linear 5x3 + 3."""
    from larq_ensemble.models.graph import layer_graph, shared_layers

    model = tiny_backbone()
    graph = layer_graph(model)
    shared = 32 * 108 + 180 + 32 * 5
    own = 32 * (2 * 4 + 2 * 5 + 1 + 15 + 3)
    report = account(graph, members=6)
    assert (report.shared_bits, report.member_bits) == (shared, own)
    assert report.paper_bits == 32 * 108 + 180 + 32 * 15
    stem = shared_layers(lambda layer: layer.name == "conv1", model)
    stem_only = account(graph, members=6, sharing=stem)
    assert stem_only.shared_bits == 32 * 108
    assert stem_only.network_bits == shared + own


def test_bits_of_quantized_weights() -> None:
    """By hand, for images of 5x5x4: what a quantizer makes of each weight, and the scales."""
    from larq_ensemble.keras import keras, lq, tf
    from larq_ensemble.models import layer_graph

    def scaled_sign(kernel):
        return lq.quantizers.ste_sign(kernel) * tf.reduce_mean(tf.abs(kernel), [0, 1, 2])

    def levels(kernel):  # -2 ... 2
        return tf.round(2 * tf.tanh(30 * kernel))

    binary, filter_, plain = Content.BINARY_FILTER, Content.FILTER_SCALE, {"use_bias": False}
    tern, two, three = "ste_tern", lq.quantizers.DoReFa(2, "weights"), lq.quantizers.NoOp(3)
    conv, dense = lq.layers.QuantConv2D, lq.layers.QuantDense
    depthwise, separable = lq.layers.QuantDepthwiseConv2D, lq.layers.QuantSeparableConv2D
    signs = {"depthwise_quantizer": "ste_sign", "pointwise_quantizer": "magnitude_aware_sign"}
    image = keras.Input((5, 5, 4))
    for layer, expected in (
        (conv(6, 3, kernel_quantizer="ste_sign"), [(binary, 216, 1), (Content.BIAS, 6, 32)]),
        (conv(6, 3, kernel_quantizer=scaled_sign, **plain), [(binary, 216, 1), (filter_, 6, 32)]),
        (conv(6, 3, kernel_quantizer=lq.quantizers.ste_sign, **plain), [(binary, 216, 1)]),
        (conv(6, 3, kernel_quantizer=levels, **plain), [(Content.CONV, 216, 3)]),
        (conv(6, 3, kernel_quantizer=tf.tanh, **plain), [(Content.CONV, 216, 32)]),
        (conv(6, 3, kernel_quantizer=tern, **plain), [(Content.CONV, 216, 2)]),
        (conv(6, 3, kernel_quantizer=two, **plain), [(Content.CONV, 216, 2)]),
        (dense(6, kernel_quantizer="ste_sign", **plain), [(binary, 24, 1)]),
        (dense(6, kernel_quantizer=three, **plain), [(Content.LINEAR, 24, 3)]),
        (depthwise(3, depthwise_quantizer="ste_sign", **plain), [(binary, 36, 1)]),
        (separable(6, 3, **signs, **plain), [(binary, 36, 1), (binary, 24, 1), (filter_, 6, 32)]),
    ):
        model = keras.Model(image, layer(image))
        node = layer_graph(model)[layer.name]
        assert [(item.content, item.count, item.bits) for item in node.stored] == expected


def test_a_quantized_variable_of_a_layer_of_ones_own_counts_once() -> None:
    from larq.quantized_variable import QuantizedVariable

    from larq_ensemble.keras import keras, lq
    from larq_ensemble.models import layer_graph

    class Scaling(keras.layers.Layer):
        def build(self, input_shape) -> None:
            latent = self.add_weight(name="kernel", shape=input_shape[1:])
            self.kernel = QuantizedVariable.from_variable(latent, lq.quantizers.SteSign())

        def call(self, inputs):
            return inputs * self.kernel

    image = keras.Input((5, 5, 4))
    graph = layer_graph(keras.Model(image, Scaling(name="own")(image)))
    assert [(item.content, item.bits) for item in graph["own"].stored] == [
        (Content.BINARY_FILTER, 1)
    ]


def test_integers_of_numpy_are_integers() -> None:
    graph = trace_model("resnet20", classes=10)
    report = account(graph, members=np.int32(4))
    assert report == account(graph, members=4)
    assert type(report.members) is int


@pytest.mark.parametrize("members", [0, -1, 2.0, True, "4"])
def test_bad_members_are_refused(members: object) -> None:
    with pytest.raises(EnsembleError, match="`members` must be a whole number from 1 on"):
        account(trace_model("resnet20", classes=10), members=members)


def test_a_keras_model_has_to_be_read_first(tiny) -> None:
    with pytest.raises(EnsembleError, match=r"layer_graph\(model\)`. Received: Functional"):
        account(tiny, members=2)


def test_a_predicate_needs_a_keras_model() -> None:
    with pytest.raises(EnsembleError, match="predicate on Keras layers"):
        account(trace_model("resnet20", classes=10), members=2, sharing=lambda layer: True)


def test_unknown_sharing_lists_the_policies() -> None:
    with pytest.raises(UnknownNameError, match=r"'mine'.*all_frozen, c1, c2, c3, fusion, none"):
        account(trace_model("resnet20", classes=10), members=2, sharing="mine")


@pytest.fixture
def run_command(capfd) -> Callable[..., tuple[int, str, str]]:
    """Runs the command: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["storage", *arguments])
        return end.value.code or 0, *capfd.readouterr()

    return run


def test_command_writes_json_without_tensorflow() -> None:
    """In a process of its own, because this one has imported what is heavy."""
    program = (
        "import sys; from larq_ensemble.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(sorted({'tensorflow', 'tf_keras', 'numpy'} & set(sys.modules)), "
        "file=sys.stderr)"
    )
    arguments = ["storage", "--classes", "100", "--members", "10", "--json", "-"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0
    result = json.loads(done.stdout)
    assert result["paper_bits"] == 567_808
    assert result["blocks"]["layer3"]["paper_bits"] == 268_288
    assert result["shared_bits"] == 8 * 48_064
    assert result["member_bits"] == 8 * 34_684
    assert result["total_bits"] == 8 * 394_904
    assert result["contents"]["filter_scale"]["shared_bits"] == 8 * 2_688
    # Multiply-accumulates at 32x32, as counted by hand in `test_compute`.
    assert (result["binary_macs"], result["real_macs"]) == (40_108_032, 710_912)
    assert done.stderr.splitlines()[-1] == "[]"


def test_command_counts_other_images(run_command, tmp_path: Path) -> None:
    options = ["--classes", "100", "--size", "64", "--channels", "1"]
    assert run_command(*options, "--json", str(tmp_path / "r.json"))[0] == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert (result["size"], result["channels"]) == (64, 1)
    # Four times the pixels of 32x32, a third of the stem's channels, the same linear layer.
    assert result["binary_macs"] == 4 * 40_108_032
    assert result["real_macs"] == 64 * 64 * 9 * 16 + 4 * 262_144 + 6_400


def test_command_prints_table_2(run_command) -> None:
    status, out, _ = run_command("--model", "resnet18", "--classes", "10")
    assert status == 0
    for bits in ("55,296", "147,456", "778,240", "3,112,960", "12,451,840", "163,840"):
        assert bits in out


def test_command_prints_tables(run_command) -> None:
    status, out, _ = run_command("--members", "10", "--sharing", "re:.*_conv[12]")
    assert status == 0
    assert "13,824" in out
    assert "33,408" in out
    for name in [*POLICY_NAMES, "re:.*_conv[12]"]:
        assert f"│ {name} " in out
    assert "394,904" in out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--model", "resnet21"], 1, "Unknown model 'resnet21'. Known: birealnet18, "),
        (["--sharing", "re:nothing"], 1, "matches no layer with weights"),
        (["--sharing", "re:("], 1, "is no regular expression"),
        (["--width", "nan"], 2, "'nan' is not a finite number"),
        (["--width", "0.01"], 1, "--width 0.01 leaves a stage without channels"),
        (["--members", "0"], 2, "--members"),
        (["--classes", "1"], 2, "--classes"),
        (["--json", "/no/such/folder/x.json"], 1, "can't be written"),
    ],
)
def test_command_errors(run_command, arguments: list[str], status: int, message: str) -> None:
    found, out, err = run_command(*arguments)
    assert found == status
    assert out == ""
    (line,) = err.splitlines()
    assert message in line
