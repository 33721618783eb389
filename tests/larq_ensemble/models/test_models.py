"""Architectures against their formulas in NumPy, and their layers against counts by hand."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from larq_ensemble.errors import EnsembleError, UnknownNameError
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.models import build_model
from larq_ensemble.models.keras_layers import KerasLayers
from larq_ensemble.network.architectures import MODELS, trace_model
from larq_ensemble.network.architectures.birealnet import bireal_block
from larq_ensemble.network.architectures.deploynet import deploy_block
from larq_ensemble.network.architectures.reactnet import react_block
from larq_ensemble.network.architectures.resnet import residual_block
from larq_ensemble.network.graph import Content

from ..conftest import randomize


def sign(x: np.ndarray) -> np.ndarray:
    """Eq. 2 of the paper: +1 at zero."""
    return np.where(x >= 0, 1.0, -1.0)


def conv(x: np.ndarray, kernel: np.ndarray, strides: int, padding: float) -> np.ndarray:
    """Cross-correlation with TensorFlow's "same" padding, one position at a time."""
    size = kernel.shape[0]
    height = -(-x.shape[1] // strides)
    total = max((height - 1) * strides + size - x.shape[1], 0)
    pads = [(0, 0), (total // 2, total - total // 2), (total // 2, total - total // 2), (0, 0)]
    x = np.pad(x, pads, constant_values=padding)
    out = np.zeros((x.shape[0], height, height, kernel.shape[3]))
    for row in range(height):
        for column in range(height):
            top, left = row * strides, column * strides
            patch = x[:, top : top + size, left : left + size]
            out[:, row, column] = np.einsum("nhwc,hwcf->nf", patch, kernel)
    return out


def binary_conv(x: np.ndarray, kernel: np.ndarray, strides: int, padding: float) -> np.ndarray:
    scale = np.abs(kernel).mean(axis=(0, 1, 2))
    return conv(sign(x), scale * sign(kernel), strides, padding)


def norm(x: np.ndarray, gamma, beta, mean, variance) -> np.ndarray:
    return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta


def prelu(x: np.ndarray, slope: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + slope * np.minimum(x, 0)


def pool(x: np.ndarray) -> np.ndarray:
    """The mean of each 2x2 window, or of what is left of it at the lower right border."""
    height = -(-x.shape[1] // 2)
    out = np.empty((x.shape[0], height, height, x.shape[3]))
    for row in range(height):
        for column in range(height):
            window = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            out[:, row, column] = window.mean(axis=(1, 2))
    return out


def halves(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Multiples of 0.5 from -1.5 to 1.5, many of them zero: sums are exact."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32) / 2


@pytest.mark.parametrize("padding", [0.0, 1.0])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("size", [6, 5])
def test_binary_convolution(padding: float, strides: int, size: int) -> None:
    """Zeros in both inputs and weights: sign(0) = +1 shows; borders: the padding shows."""
    x, kernel = halves((2, size, size, 3), 0), halves((3, 3, 3, 4), 1)
    assert (x == 0).any()
    assert (kernel == 0).any()
    inputs = keras.Input((size, size, 3))
    outputs = KerasLayers(pad_values=padding).QuantConv2D(4, 3, strides=strides, name="a")(inputs)
    model = keras.Model(inputs, outputs)
    model.set_weights([kernel])
    expected = binary_conv(x, kernel, strides, padding)
    np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-6, atol=1e-6)
    assert not np.allclose(expected, binary_conv(x, kernel, strides, 1 - padding))


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("strides", "size", "centred"), [(1, 6, True), (2, 6, True), (2, 5, True), (2, 6, False)]
)
def test_residual_block(binary: bool, strides: int, size: int, centred: bool) -> None:
    """Fig. 1B: (BN, sign, binary conv, PReLU) twice, BN, plus shortcut, PReLU.

    The shortcut reads the centre of the convolution: of an even size pixel 1, of an odd one 0.
    """
    filters = 3 * strides
    model = block_model(
        partial(residual_block, centred=centred), size, filters, strides, binary=binary
    )
    x = halves((2, size, size, 3), 2)

    def weights(name: str) -> list[np.ndarray]:
        return [value.astype(np.float64) for value in model.get_layer(f"b_{name}").get_weights()]

    def main_conv(value: np.ndarray, name: str, step: int) -> np.ndarray:
        function = binary_conv if binary else conv
        return function(value, *weights(name), step, 0.0)

    y = norm(x, *weights("bn1"))
    y = prelu(main_conv(y, "conv1", strides), *weights("prelu1"))
    y = norm(y, *weights("bn2"))
    y = prelu(main_conv(y, "conv2", 1), *weights("prelu2"))
    y = norm(y, *weights("bn3"))
    shortcut = x
    if strides == 2:
        first = 1 if centred and size == 6 else 0
        read = x[:, first::2, first::2]
        shortcut = norm(conv(read, *weights("shortcut_conv"), 1, 0.0), *weights("shortcut_bn"))
    expected = prelu(y + shortcut, *weights("prelu3"))
    np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-4, atol=1e-4)


def block_model(block, size: int, filters: int, strides: int, **options) -> keras.Model:
    inputs = keras.Input((size, size, 3))
    outputs = block(KerasLayers(**options), inputs, filters, strides=strides, name="b")
    return randomize(keras.Model(inputs, outputs), seed=strides)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(("strides", "size"), [(1, 4), (2, 6), (2, 5)])
def test_bireal_block(binary: bool, strides: int, size: int) -> None:
    """(Sign, binary conv, BN, plus shortcut) twice; the twin has hard tanh for the sign."""
    filters = 3 * strides
    model = block_model(bireal_block, size, filters, strides, binary=binary)
    x = halves((2, size, size, 3), 2)

    def weights(name: str) -> list[np.ndarray]:
        return [value.astype(np.float64) for value in model.get_layer(f"b_{name}").get_weights()]

    def half(value: np.ndarray, index: int, step: int) -> np.ndarray:
        (kernel,) = weights(f"conv{index}")
        if binary:
            value = binary_conv(value, kernel, step, 0.0)
        else:
            value = conv(np.clip(value, -1, 1), kernel, step, 0.0)
        return norm(value, *weights(f"bn{index}"))

    shortcut = x
    if strides == 2:
        shortcut = norm(conv(pool(x), *weights("shortcut_conv"), 1, 0.0), *weights("shortcut_bn"))
    y = half(x, 1, strides) + shortcut
    expected = half(y, 2, 1) + y
    np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(("strides", "size"), [(1, 4), (2, 6), (2, 5)])
def test_react_block(binary: bool, strides: int, size: int) -> None:
    """(RSign, binary conv, BN, plus shortcut, RPReLU) twice; the twin has no RSign."""
    filters = 3 * strides
    model = block_model(react_block, size, filters, strides, binary=binary)
    x = halves((2, size, size, 3), 2)

    def weights(name: str) -> list[np.ndarray]:
        return [value.astype(np.float64) for value in model.get_layer(f"b_{name}").get_weights()]

    def signs_conv(value: np.ndarray, which: str, step: int) -> np.ndarray:
        (kernel,) = weights(which.format("conv"))
        if not binary:
            return conv(value, kernel, step, 0.0)
        (threshold,) = weights(which.format("rsign"))
        return binary_conv(value - threshold, kernel, step, 0.0)

    def half(value: np.ndarray, shortcut: np.ndarray, index: int, step: int) -> np.ndarray:
        value = norm(signs_conv(value, f"{{}}{index}", step), *weights(f"bn{index}")) + shortcut
        shift, slope, offset = weights(f"rprelu{index}")
        return prelu(value - shift, slope) + offset

    shortcut = x
    if strides == 2:
        shortcut = norm(signs_conv(pool(x), "shortcut_{}", 1), *weights("shortcut_bn"))
    y = half(x, shortcut, 1, strides)
    expected = half(y, y, 2, 1)
    np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("strides", "size", "filters"), [(1, 4, 3), (2, 6, 3), (2, 5, 3), (2, 6, 6), (1, 4, 9)]
)
def test_deploy_block(binary: bool, strides: int, size: int, filters: int) -> None:
    """BN, sign, binary conv padded with ones, PReLU with a slope per channel, BN, plus shortcut.

    The shortcut has the three channels as often as it takes.
    """
    model = block_model(deploy_block, size, filters, strides, binary=binary, pad_values=1.0)
    x = halves((2, size, size, 3), 2)

    def weights(name: str) -> list[np.ndarray]:
        return [value.astype(np.float64) for value in model.get_layer(f"b_{name}").get_weights()]

    y = norm(x, *weights("bn1"))
    (kernel,) = weights("conv")
    y = binary_conv(y, kernel, strides, 1.0) if binary else conv(y, kernel, strides, 0.0)
    y = norm(prelu(y, *weights("prelu")), *weights("bn2"))
    expected = y + np.tile(pool(x) if strides == 2 else x, filters // 3)
    np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-4, atol=1e-4)
    assert model.get_layer("b_prelu").alpha.shape == (1, 1, filters)


@pytest.mark.parametrize("name", ["deploynet8", "deploynet8_real", "deploynet8_relu"])
def test_at_any_width_shortcuts_repeat_whole_channels(name: str) -> None:
    """Of 64 and 128 channels: at width 0.51 the first stage has 33, so the second has 66."""
    model = build_model(name, input_shape=(8, 8, 3), classes=3, width=0.51)
    filters = [layer.filters for layer in model.layers if hasattr(layer, "filters")]
    assert set(filters) == {33, 66}
    assert model.layers[-1].get_weights()[0].shape == (66, 3)


def test_a_shortcut_repeats_whole_channels_only() -> None:
    with pytest.raises(EnsembleError, match="can't repeat 3 channels to 4: `filters` must be"):
        block_model(deploy_block, 4, 4, 1, binary=True, pad_values=1.0)


def test_deploynet_pads_with_ones() -> None:
    small = {"input_shape": (4, 4, 1), "classes": 2, "width": 1 / 64}
    for arguments, expected in (({}, 1), ({"pad_values": 0}, 0)):
        model = build_model("deploynet9", **small, **arguments)
        assert {layer.pad_values for layer in model.layers if hasattr(layer, "pad_values")} == {
            expected
        }


def input_quantizers(model: keras.Model) -> set[type]:
    """What binarizes the inputs of binary convolutions."""
    layers = [layer for layer in model.layers if isinstance(layer, lq.layers.QuantConv2D)]
    return {type(layer.input_quantizer) for layer in layers}


def test_the_estimator_is_the_gradient_of_the_sign(resnet20) -> None:
    small = {"input_shape": (4, 4, 1), "classes": 2, "width": 1 / 64}
    assert input_quantizers(resnet20) == {lq.quantizers.SteSign}
    model = build_model("birealnet18", estimator="approx_sign", **small)
    assert input_quantizers(model) == {lq.quantizers.ApproxSign}
    # RSign binarizes.
    assert input_quantizers(build_model("reactnet10", **small)) == {type(None)}
    with pytest.raises(
        EnsembleError, match="must be 'approx_sign' in 'reactnet10', got 'ste_sign'"
    ):
        build_model("reactnet10", estimator="ste_sign", **small)
    with pytest.raises(EnsembleError, match=r"must be 'ste_sign' or 'approx_sign' in .*'swish'"):
        build_model("resnet20", estimator="swish", **small)


@pytest.mark.parametrize(
    ("name", "convolutions", "shortcuts"),
    [
        ("resnet18", (4, 4, 4, 4), 3),
        ("resnet20", (6, 6, 6), 2),
        ("resnet32", (10, 10, 10), 2),
        ("resnet34", (6, 8, 12, 6), 3),
        ("birealnet18", (4, 4, 4, 4), 3),
        ("birealnet34", (6, 8, 12, 6), 3),
        ("reactnet10", (2, 2, 2, 2), 3),
        ("deploynet8", (2, 4), 0),
        ("deploynet9", (3, 4), 0),
    ],
)
def test_each_network_has_the_layers_of_its_name(
    name: str, convolutions: tuple[int, ...], shortcuts: int
) -> None:
    """The number counts the stem, the binary 3x3 convolutions and the linear layer."""
    graph = trace_model(name, classes=10)
    binary = [layer for layer in graph if layer.binary and layer.kernel_size == (3, 3)]
    assert len(binary) == sum(convolutions) == int(name.strip("abcdefghijklmnopqrstuvwxyz")) - 2
    for stage, expected in enumerate(convolutions, start=1):
        assert sum(layer.name.startswith(f"layer{stage}_") for layer in binary) == expected
    small = [layer for layer in graph if layer.kernel_size == (1, 1)]
    assert [layer.name for layer in small] == [
        f"layer{stage}_0_shortcut_conv" for stage in range(2, 2 + shortcuts)
    ]
    assert all(layer.binary == (name == "reactnet10") for layer in small)


@pytest.mark.parametrize("name", [name for name in MODELS if not name.endswith("_relu")])
def test_a_twin_has_the_layers_of_its_network(name: str) -> None:
    """Weights are transferred by name, so kinds and shapes of layers are equal."""
    twin = {
        layer.name: layer for layer in trace_model(f"{name.removesuffix('_real')}_real", classes=10)
    }
    assert not any(layer.binary for layer in twin.values())
    for layer in trace_model(name, classes=10):
        if "rsign" in layer.name:
            assert layer.name not in twin
            continue
        other = twin[layer.name]
        assert (other.kind, other.kernel_size) == (layer.kind, layer.kernel_size)
        counts = [
            [item.count for item in node.stored if item.content is not Content.FILTER_SCALE]
            for node in (layer, other)
        ]
        assert counts[0] == counts[1]


def test_straight_through_estimators() -> None:
    """Eq. 5: the gradient of sign is 1 within [-1, 1], else 0; the scale is held constant.

    On an image of one pixel only the kernel's centre takes part.
    """
    x = np.array([-2, -1, -0.5, 0, 0.5, 1, 1.5], np.float32).reshape(1, 1, 1, 7)
    kernel = np.random.default_rng(0).normal(0, 1, (3, 3, 7, 2)).astype(np.float32)
    centre = kernel[1, 1]
    assert (np.abs(centre) > 1).any()
    inputs = keras.Input((1, 1, 7))
    layer_model = keras.Model(inputs, KerasLayers().QuantConv2D(2, 3, name="a")(inputs))
    layer_model.set_weights([kernel])
    image = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(image)
        # Different weights for the two filters, so that their gradients can be told apart.
        value = tf.reduce_sum(layer_model(image) * [1.0, 3.0])
    of_image, of_kernel = tape.gradient(value, [image, layer_model.trainable_weights[0]])

    outer = np.array([1.0, 3.0]) * np.abs(kernel).mean(axis=(0, 1, 2))
    passes = np.abs(x[0, 0, 0]) <= 1
    np.testing.assert_allclose(of_image[0, 0, 0], passes * (sign(centre) @ outer), rtol=1e-5)
    expected = np.zeros_like(kernel)
    expected[1, 1] = (np.abs(centre) <= 1) * sign(x[0, 0, 0])[:, np.newaxis] * outer
    np.testing.assert_allclose(of_kernel, expected, rtol=1e-5, atol=1e-7)


def test_latent_weights_are_clipped_to_where_gradients_pass(resnet20) -> None:
    for layer in resnet20.layers:
        if isinstance(layer, lq.layers.QuantConv2D):
            np.testing.assert_array_equal(
                layer.kernel_constraint(tf.constant([-3.0, 0.5, 2.0])), [-1, 0.5, 1]
            )


def test_the_order_of_layers(resnet20) -> None:
    """Stem and norm; nine blocks, the first of stages 2 and 3 with a shortcut; linear at the end.

    Main path only: the names of its layers from the output back to the image.
    """
    order = []
    tensor = resnet20.output
    while True:
        node = tensor.node
        order.append((type(node.layer).__name__, node.layer.name))
        if not node.keras_inputs:
            break
        tensor = node.keras_inputs[0]
    half = ["BatchNormalization", "QuantConv2D", "PReLU"]
    block = [*half, *half, "BatchNormalization", "Add", "PReLU"]
    assert [kind for kind, _ in reversed(order)] == [
        "InputLayer",
        "Conv2D",
        "BatchNormalization",
        "Activation",
        *block * 9,
        "GlobalAveragePooling2D",
        "Dropout",
        "Dense",
    ]
    shortcuts = [layer for layer in resnet20.layers if layer.name.endswith("shortcut_conv")]
    assert [layer.name for layer in shortcuts] == [
        "layer2_0_shortcut_conv",
        "layer3_0_shortcut_conv",
    ]
    for layer in shortcuts:
        assert type(layer) is keras.layers.Conv2D
        assert (layer.kernel_size, layer.strides) == ((1, 1), (2, 2))
    adds = [layer for layer in resnet20.layers if isinstance(layer, keras.layers.Add)]
    assert [layer.output_shape[1:] for layer in adds] == [
        *[(8, 8, 4)] * 3,
        *[(4, 4, 8)] * 3,
        *[(2, 2, 16)] * 3,
    ]


def test_larq_summary_by_hand() -> None:
    """At full width, by hand: stages of 16, 32 and 64 channels, 100 classes."""
    model = build_model("resnet20", input_shape=(32, 32, 3), classes=100)
    binary = 6 * 9 * 16**2 + 9 * 16 * 32 + 5 * 9 * 32**2 + 9 * 32 * 64 + 5 * 9 * 64**2
    real = 9 * 3 * 16 + 16 * 32 + 32 * 64 + 64 * 100 + 100
    norm_channels = 16 + 9 * 16 + (16 + 8 * 32 + 32) + (32 + 8 * 64 + 64)
    lines: list[str] = []
    lq.models.summary(model, print_fn=lines.append)
    text = "\n".join(lines)
    total = next(line for line in text.splitlines() if line.startswith("| Total  ")).split()
    # Larq counts two values a channel of a batch norm, and Keras four.
    assert [int(total[2]), int(total[3])] == [binary, real + 2 * norm_channels + 27]
    assert model.count_params() == binary + real + 4 * norm_channels + 27
    assert model.input_shape == (None, 32, 32, 3)
    assert model.output_shape == (None, 100)


def test_the_twin_differs_in_binarization_only(resnet20) -> None:
    twin = build_model("resnet20_real", input_shape=(8, 8, 3), classes=10, width=0.25)
    assert [layer.name for layer in twin.layers] == [layer.name for layer in resnet20.layers]
    assert twin.count_params() == resnet20.count_params()
    assert not any(isinstance(layer, lq.layers.QuantConv2D) for layer in twin.layers)


@pytest.mark.parametrize("shape", [(9, 7, 1), (28, 28, 1)])
def test_any_input_size(shape: tuple[int, int, int]) -> None:
    model = build_model("resnet20", input_shape=shape, classes=4, width=0.125)
    image = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    assert model(image).shape == (2, 4)


def test_parameters_reach_their_layers() -> None:
    model = build_model(
        "resnet20", input_shape=(4, 4, 1), classes=4, width=0.125, dropout=0.3, pad_values=1
    )
    assert model.get_layer("dropout").rate == 0.3
    binary = [layer for layer in model.layers if isinstance(layer, lq.layers.QuantConv2D)]
    assert len(binary) == 18
    assert {layer.pad_values for layer in binary} == {1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (8, 8)}, r"`input_shape` must be three positive sizes .*\(8, 8\)"),
        ({"input_shape": (8, 0, 3)}, r"`input_shape` must be three positive sizes"),
        ({"input_shape": (8.5, 8, 3)}, r"three positive sizes .*\(8\.5, 8, 3\)"),
        ({"input_shape": (True, 8, 3)}, r"three positive sizes .*\(True, 8, 3\)"),
        ({"input_shape": (None, None, 3)}, r"three positive sizes .*\(None, None, 3\)"),
        ({"input_shape": 8}, "three positive sizes .*got 8"),
        ({"classes": 1}, "`classes` must be a whole number from 2 on, got 1"),
        ({"classes": 2.5}, r"`classes` .* got 2\.5"),
        ({"classes": float("nan")}, "`classes` .* got nan"),
        ({"classes": "ten"}, "`classes` .* got 'ten'"),
        ({"dropout": 1.0}, r"`dropout` must be at least 0 and below 1, got 1\.0"),
        ({"pad_values": 0.5}, r"`pad_values` must be 0 or 1, got 0\.5"),
        ({"dropout": "half"}, "`dropout` .* got 'half'"),
        ({"width": float("nan")}, "`width` must be a number above 0, got nan"),
        ({"width": float("inf")}, "`width` .* got inf"),
        ({"width": -1}, "`width` .* got -1"),
        ({"width": "2"}, "`width` .* got '2'"),
        ({"width": 0.01}, r"`width` 0\.01 leaves a stage without channels"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(EnsembleError, match=message):
        build_model("resnet20", **{"input_shape": (8, 8, 3), "classes": 3, **arguments})
    if not {"dropout", "pad_values"} & {*arguments}:
        with pytest.raises(EnsembleError, match=message):
            trace_model("resnet20", **{"classes": 3, **arguments})


def test_sizes_of_numpy() -> None:
    sizes = {"input_shape": np.array([8, 8, 3]), "classes": np.int64(3), "width": np.float32(0.5)}
    model = build_model("deploynet9", **sizes)
    assert (model.input_shape, model.output_shape) == ((None, 8, 8, 3), (None, 3))
    assert model.get_layer("conv1").filters == 32


def test_unknown_models_list_the_known_ones() -> None:
    families = ["resnet18", "resnet20", "resnet32", "resnet34"]
    families += ["birealnet18", "birealnet34", "reactnet10", "deploynet8", "deploynet9"]
    twins = [f"{name}_real" for name in families]
    known = {*families, *twins, "resnet20_relu", "deploynet8_relu", "deploynet9_relu"}
    assert set(MODELS) - {"stem", "tiny"} == known  # tests of training add them, in one process
    for build in (
        lambda: build_model("resnet", input_shape=(8, 8, 3), classes=3),
        lambda: trace_model("resnet", classes=3),
    ):
        with pytest.raises(UnknownNameError) as error:
            build()
        assert str(error.value) == f"Unknown model 'resnet'. Known: {', '.join(sorted(MODELS))}."
