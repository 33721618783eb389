"""Members may own layers of any kind, with any arguments: the file computes what Keras computes.

Each network has many layers, since a conversion takes time: if one of them is wrong, all are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from larq_ensemble.convert.frontend.any_layer import AnyLayerLowering
from larq_ensemble.convert.inspection import inspect_file
from larq_ensemble.ensembles import build_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.keras import keras, lq, tf

from .conftest import Converted, assert_members_agree, converted, pixels, randomized

layers = keras.layers


@keras.utils.register_keras_serializable("test_own_layers")
class Parts(layers.Layer):
    """Weights in a list, and in a layer in a dictionary."""

    def build(self, input_shape: Any) -> None:
        shape = input_shape[-1:]
        self.vectors = [
            self.add_weight(name="scale", shape=shape, initializer="ones"),
            self.add_weight(name="bias", shape=shape),
        ]
        self.inner = {"dense": layers.Dense(shape[0], name="inner")}
        self.inner["dense"].build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        scale, bias = self.vectors
        return self.inner["dense"](inputs * scale + bias)


@keras.utils.register_keras_serializable("test_own_layers")
class Shortcut(lq.layers.QuantConv2D):
    """Reads its input as it is, not only through the input quantizer."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs + super().call(inputs)


def network(*parts: Any, size: int, filters: int) -> keras.Model:
    """Stem, what the functions in `parts` make of it one after the other, linear layer."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((size, size, 3))
    x = layers.Conv2D(filters, 3, padding="same", name="stem")(inputs)
    for part in parts:
        x = part(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(5, name="logits")(x))


def assert_converts(
    backbone: keras.Model, folder: Any, sharing: Any = "none", **options: Any
) -> Converted:
    model = randomized(build_ensemble(backbone, 2, sharing=sharing))
    case = converted(model, folder, **options)
    assert_members_agree(case, pixels(20, backbone.input_shape[1:]))
    return case


def quantized(kind: Any = lq.layers.QuantConv2D, *args: Any, **options: Any) -> Any:
    signs = {
        name: "magnitude_aware_sign"
        for name in ("kernel_quantizer", "depthwise_quantizer", "pointwise_quantizer")
        if name in kind(1, 1).get_config()
    }
    return kind(*args, **{"input_quantizer": "ste_sign", "padding": "same", **signs, **options})


def test_layers_without_a_short_form(tmp_path) -> None:
    backbone = network(
        layers.Conv2D(8, 3, groups=2, name="grouped"),
        layers.Conv2DTranspose(8, 3, strides=2, name="transposed"),
        layers.GroupNormalization(4, name="group_norm"),
        layers.SeparableConv2D(8, 3, activation="relu", name="separable"),
        layers.LayerNormalization(name="layer_norm"),
        layers.BatchNormalization(axis=[1, 3], name="norm_of_rows_and_channels"),
        layers.Conv1D(8, 3, name="of_rows"),
        layers.EinsumDense("abcd,de->abce", (None, None, 8), bias_axes="e", name="einsum"),
        layers.Dense(8, activation=layers.PReLU(name="slopes"), name="with_prelu"),
        Parts(name="parts"),
        size=6,
        filters=8,
    )
    assert_converts(backbone, tmp_path)


def test_quantized_layers_without_a_short_form(tmp_path) -> None:
    def between() -> Any:
        return layers.BatchNormalization()

    backbone = network(
        *(between(), quantized(lq.layers.QuantDepthwiseConv2D, 3, strides=2, pad_values=1.0)),
        *(between(), quantized(lq.layers.QuantSeparableConv2D, 32, 3)),
        *(between(), quantized(lq.layers.QuantConv2DTranspose, 32, 3)),
        *(between(), quantized(lq.layers.QuantConv2D, 32, 1, groups=2)),
        *(between(), quantized(lq.layers.QuantConv2D, 8, 1, kernel_quantizer="ste_tern")),
        *(between(), quantized(lq.layers.QuantConv2D, 8, 1, kernel_quantizer="dorefa_quantizer")),
        between(),
        size=8,
        filters=8,
    )
    case = assert_converts(backbone, tmp_path, layout="subgraphs")
    constants = read(case.path.read_bytes()).graphs[0].tensors
    words = {
        tensor.size for tensor in constants if tensor.dtype == "int32" and tensor.data is not None
    }
    # Signs are bits, those of depthwise filters too, by hand: nine taps of 8 channels are 72.
    assert {-(-signs // 32) for signs in (9 * 8, 8 * 32, 9 * 32 * 32, 16 * 32)} <= words


def test_values_by_row_where_rows_are_as_many_as_channels(tmp_path) -> None:
    backbone = network(
        layers.BatchNormalization(axis=1, name="norm_of_rows"),
        quantized(lq.layers.QuantConv2D, 16, 3, name="a"),
        layers.PReLU(shared_axes=[2, 3], name="slopes_of_rows"),
        layers.BatchNormalization(name="norm"),
        Shortcut(16, 3, padding="same", input_quantizer="ste_sign", kernel_quantizer="ste_sign"),
        layers.PReLU(shared_axes=[1, 3], name="slopes_of_columns"),
        layers.ReLU(name="relu"),
        layers.BatchNormalization(axis=2, name="norm_of_columns"),
        quantized(lq.layers.QuantConv2D, 16, 3, name="b"),
        size=16,
        filters=16,
    )
    case = assert_converts(backbone, tmp_path, sharing="fusion")
    assert "threshold_norms" not in inspect_file(case.path).metadata["rewrites"]


def test_a_layer_whose_weights_cannot_be_replaced() -> None:
    class Hidden(layers.Layer):
        def build(self, input_shape: Any) -> None:
            weight = self.add_weight(name="scale", shape=input_shape[-1:])
            self.weight = lambda: weight

    hidden = Hidden(name="hidden")
    hidden.build((None, 8))
    with pytest.raises(EnsembleError, match=r"'hidden' \(Hidden\).*no attributes.*share it, or"):
        AnyLayerLowering().values(hidden)


def test_the_layer_has_its_own_weights_again() -> None:
    parts = Parts(name="parts")
    x = np.float32([[1, 2, 3, 4]])
    expected = parts(x).numpy()
    lowering = AnyLayerLowering()
    rows = {name: tf.zeros_like(value) for name, value in lowering.values(parts).items()}
    assert not lowering.apply(parts, x, rows).numpy().any()
    np.testing.assert_array_equal(parts(x), expected)
    assert [id(weight) for weight in parts.weights] == [
        id(weight) for weight in [*parts.vectors, *parts.inner["dense"].weights]
    ]
