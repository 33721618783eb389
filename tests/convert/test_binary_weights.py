"""Binary weights take a bit each in the file, whatever layer they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from larq_ensemble.convert import pipeline
from larq_ensemble.convert.inspection import inspect_file
from larq_ensemble.convert.passes import binary_dense, binary_weights
from larq_ensemble.ensembles import build_ensemble
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.runtime import EnsembleInterpreter

from .conftest import (
    Converted,
    SmallCase,
    assert_members_agree,
    converted,
    pixels,
    randomized,
)


@keras.utils.register_keras_serializable("test")
def looped_scale(kernel: tf.Tensor) -> tf.Tensor:
    """A scale for each filter, computed in a loop: LCE's converter would leave it in the file."""
    filters = tf.transpose(kernel, [3, 0, 1, 2])
    scales = tf.map_fn(lambda weights: tf.reduce_mean(tf.abs(weights)), filters)
    return lq.quantizers.ste_sign(kernel) * scales


@keras.utils.register_keras_serializable("test")
class Scaling(lq.layers_base.BaseLayer):
    """A layer of one's own: each pixel and channel times a sign."""

    def build(self, input_shape: Any) -> None:
        shape = input_shape[1:]
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer="glorot_normal")

    def _get_quantizer(self, _name: str) -> Any:
        return lq.quantizers.SteSign()

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        with lq.context.quantized_scope(True):
            return inputs * self.kernel


def backbone(*layers: keras.layers.Layer, size: int = 8) -> keras.Model:
    """Binary weights that meet real-valued inputs, inputs of two bits, and binary ones.

    # Arguments
        layers: further ones before the hidden dense layer.
    """
    keras.utils.set_random_seed(0)
    ste = {"kernel_quantizer": "ste_sign", "padding": "same"}
    binary = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign", "use_bias": False}
    two_bits = lq.quantizers.DoReFa(2, mode="activations")
    image = keras.Input((size, size, 3))
    x = lq.layers.QuantConv2D(24, 3, name="first", **ste)(image)
    x = keras.layers.BatchNormalization()(x)
    x = lq.layers.QuantConv2D(32, 3, input_quantizer=two_bits, name="two_bits", **ste)(x)
    x = keras.layers.BatchNormalization()(x)
    for layer in layers:
        x = layer(x)
    x = lq.layers.QuantDense(64, name="hidden", **binary)(keras.layers.Flatten()(x))
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(image, keras.layers.Dense(5, name="logits")(x))


def unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the passes out of the pipeline."""
    passes = (binary_dense.run, binary_weights.run)
    steps = tuple(step for step in pipeline.PIPELINE if step.run not in passes)
    assert len(steps) == len(pipeline.PIPELINE) - 2
    monkeypatch.setattr(pipeline, "PIPELINE", steps)


def test_every_shared_binary_weight_takes_a_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaled = {"kernel_quantizer": looped_scale, "input_quantizer": "ste_sign", "padding": "same"}
    network = backbone(
        lq.layers.QuantConv2D(32, 3, name="binary", **scaled),
        keras.layers.BatchNormalization(),
        Scaling(name="own"),
        lq.layers.QuantDepthwiseConv2D(3, depthwise_quantizer="ste_sign", strides=2),
    )
    model = randomized(build_ensemble(network, 2))
    images = pixels(20, (8, 8, 3))
    case = converted(model, tmp_path, layout="indexed")
    inspection = inspect_file(case.path)
    sizes = inspection.categories
    assert inspection.lower_bound is not None
    weights = 27 * 24 + 9 * 24 * 32 + 9 * 32 * 32 + 8 * 8 * 32 + 9 * 32 + 288 * 64
    assert inspection.lower_bound["binary_filters"] == weights // 8
    # What fills no whole word is padded, once a layer.
    assert weights // 8 <= sizes["binary_filters"] + sizes["filter_padding"] < weights // 8 + 6 * 4
    assert sizes["unpacked_filters"] == 0
    assert inspection.ops["LceBconv2d"] == 2
    assert_members_agree(case, images, least=0.9)
    ours = EnsembleInterpreter(case.path).predict_logits(images)

    unpacked(monkeypatch)
    plain = converted(model, tmp_path, layout="indexed")
    # Only `binary` is bits now. What the others lose shows.
    sizes, packed = inspect_file(plain.path).categories, 9 * 32 * 32
    assert sizes["binary_filters"] == packed // 8
    in_matrices = weights - packed - 8 * 8 * 32
    assert sizes["unpacked_filters"] == 4 * in_matrices
    assert EnsembleInterpreter(plain.path).predict_logits(images).tobytes() == ours.tobytes()


@pytest.mark.parametrize("layout", ["indexed", "subgraphs"])
def test_members_own_filters_of_real_valued_inputs_have_no_gaps(
    tmp_path: Path, layout: str
) -> None:
    own = {"first", "two_bits"}
    model = build_ensemble(backbone(), 2, sharing=lambda layer: layer.name not in own)
    case = converted(randomized(model), tmp_path, layout=layout)
    sizes = inspect_file(case.path).categories
    assert sizes["binary_filters"] == (2 * (27 * 24 + 9 * 24 * 32) + 8 * 8 * 32 * 64) // 8
    assert sizes["filter_padding"] < 4 * 4
    assert_members_agree(case, pixels(20, (8, 8, 3)), least=0.9)


def test_sharing_never_makes_a_file_larger(
    fusion: Converted, small_case: SmallCase, tmp_path: Path
) -> None:
    """Also where LCE leaves what members share as floats."""
    assert fusion.report.bytes < small_case(3, "none", layout="auto").report.bytes
    network = backbone(size=6)
    shared, own = (
        converted(randomized(build_ensemble(network, 2, sharing=sharing)), tmp_path).report.bytes
        for sharing in ("fusion", "none")
    )
    assert shared < own
