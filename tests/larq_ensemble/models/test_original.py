"""The networks of the paper against the forward pass of its authors' code, in NumPy.

`original_resnet` and `original_birealnet` follow https://github.com/analog75/ensemble_bnn
(`ResNet_XNOR` and `BiRealNet`, files `model.py`) line by line, with PyTorch's conventions: maps
[n, channels, height, width], symmetric padding, and stride 2 from pixel 0 on, so a 3x3 convolution
is centred on the pixels 0, 2, 4, ... With TensorFlow's padding "same" these are 1, 3, 5, ... where
the size is even. Counted from the other end they are PyTorch's, so image and filters are turned by
180 degrees; nothing else is adapted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from larq_ensemble.keras import keras
from larq_ensemble.models import build_model

from ..conftest import randomize

Weights = dict[str, list[np.ndarray]]


def conv2d(x: np.ndarray, weight: np.ndarray, stride: int = 1, padding: int = 0) -> np.ndarray:
    """`F.conv2d(x, weight, stride=stride, padding=padding)`, weight [out, in, height, width]."""
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))
    return np.einsum(
        "nchwij,ocij->nohw", windows[:, :, ::stride, ::stride], weight, optimize="greedy"
    )


def binary_conv(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """`HardBinaryConv` of `SimpleBinaryActivation`."""
    scaling_factor = np.abs(weight).mean(axis=(1, 2, 3), keepdims=True)
    return conv2d(np.sign(x), scaling_factor * np.sign(weight), stride, padding=1)


def batch_norm(x: np.ndarray, parameters: list[np.ndarray]) -> np.ndarray:
    """`nn.BatchNorm2d` in evaluation."""
    weight, bias, mean, variance = (value[:, None, None] for value in parameters)
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def prelu(x: np.ndarray, parameters: list[np.ndarray]) -> np.ndarray:
    """`nn.PReLU()`: one slope."""
    return np.where(x > 0, x, parameters[0].item() * x)


def avg_pool2d(x: np.ndarray) -> np.ndarray:
    """`nn.AvgPool2d(kernel_size=2, stride=2)`."""
    n, channels, height, width = x.shape
    return x.reshape(n, channels, height // 2, 2, width // 2, 2).mean(axis=(3, 5))


def basic_block_xnor(w: Weights, name: str, x: np.ndarray, stride: int) -> np.ndarray:
    out = batch_norm(x, w[f"{name}_bn1"])
    out = prelu(binary_conv(out, *w[f"{name}_conv1"], stride), w[f"{name}_prelu1"])
    out = batch_norm(out, w[f"{name}_bn2"])
    out = prelu(binary_conv(out, *w[f"{name}_conv2"], 1), w[f"{name}_prelu2"])
    out = batch_norm(out, w[f"{name}_bn3"])
    shortcut = x
    if f"{name}_shortcut_conv" in w:
        shortcut = conv2d(x, *w[f"{name}_shortcut_conv"], stride)
        shortcut = batch_norm(shortcut, w[f"{name}_shortcut_bn"])
    return prelu(out + shortcut, w[f"{name}_prelu3"])


def original_resnet(w: Weights, x: np.ndarray, num_blocks: tuple[int, ...]) -> np.ndarray:
    out = relu(batch_norm(conv2d(x, *w["conv1"], padding=1), w["conv1_bn"]))
    for stage, count in enumerate(num_blocks, start=1):
        for index in range(count):
            stride = 2 if stage > 1 and index == 0 else 1
            out = basic_block_xnor(w, f"layer{stage}_{index}", out, stride)
    return linear(w, out)


def basic_block_bireal(w: Weights, name: str, half: int, x: np.ndarray, stride: int) -> np.ndarray:
    residual = x
    out = binary_conv(x, *w[f"{name}_conv{half}"], stride)
    out = batch_norm(out, w[f"{name}_bn{half}"])
    if stride == 2:
        residual = conv2d(avg_pool2d(x), *w[f"{name}_shortcut_conv"])
        residual = batch_norm(residual, w[f"{name}_shortcut_bn"])
    return out + residual


def original_birealnet(w: Weights, x: np.ndarray, num_blocks: tuple[int, ...]) -> np.ndarray:
    x = batch_norm(conv2d(x, *w["conv1"], padding=1), w["conv1_bn"])
    x = batch_norm(relu(x), w["conv1_bn2"])
    for stage, count in enumerate(num_blocks, start=1):
        for index in range(count):  # two blocks of theirs are one of ours
            stride = 2 if stage > 1 and index == 0 else 1
            x = basic_block_bireal(w, f"layer{stage}_{index}", 1, x, stride)
            x = basic_block_bireal(w, f"layer{stage}_{index}", 2, x, 1)
    return linear(w, x)


def linear(w: Weights, x: np.ndarray) -> np.ndarray:
    """Global average pooling and `nn.Linear`."""
    weight, bias = w["linear"]
    return x.mean(axis=(2, 3)) @ weight.T + bias


def original_weights(model: keras.Model) -> Weights:
    """The weights of our network as PyTorch lays them out, filters turned by 180 degrees."""

    def laid_out(value: np.ndarray) -> np.ndarray:
        if value.ndim == 4:
            return value[::-1, ::-1].transpose(3, 2, 0, 1)
        return value.T

    return {
        layer.name: [laid_out(value) for value in layer.get_weights()]
        for layer in model.layers
        if layer.weights
    }


@pytest.fixture
def float64():
    """Of inputs and of layers: once another test has set a policy, these don't follow `floatx`."""
    keras.backend.set_floatx("float64")
    keras.mixed_precision.set_global_policy("float64")
    yield
    keras.mixed_precision.set_global_policy("float32")
    keras.backend.set_floatx("float32")


@pytest.mark.parametrize(
    ("name", "original", "num_blocks", "width"),
    [
        ("resnet20", original_resnet, (3, 3, 3), 0.5),
        ("resnet18", original_resnet, (2, 2, 2, 2), 0.125),
        ("birealnet18", original_birealnet, (2, 2, 2, 2), 0.125),
    ],
)
@pytest.mark.usefixtures("float64")
def test_same_weights_give_the_logits_of_the_original(
    name: str,
    original: Callable[[Weights, np.ndarray, tuple[int, ...]], np.ndarray],
    num_blocks: tuple[int, ...],
    width: float,
) -> None:
    model = build_model(name, input_shape=(16, 16, 3), classes=10, width=width)
    randomize(model)
    images = np.random.default_rng(1).normal(size=(8, 16, 16, 3))
    turned = images[:, ::-1, ::-1].transpose(0, 3, 1, 2)
    expected = original(original_weights(model), turned, num_blocks)
    logits = model(images).numpy()
    assert logits.dtype == np.float64
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
