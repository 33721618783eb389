"""What Larq Compute Engine gets wrong, or can't run: computed in another way, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from larq_ensemble.convert import check_convertible
from larq_ensemble.convert.conversion import convert_ensemble
from larq_ensemble.convert.export import export_file
from larq_ensemble.ensembles import build_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.runtime import EnsembleInterpreter

from .conftest import MEAN, STD, converted, pixels, randomized
from .test_own_layers import assert_converts, network, quantized

layers = keras.layers


def norm(x: Any) -> Any:
    return layers.BatchNormalization()(x)


def test_faults_are_worked_around(tmp_path) -> None:
    def ones_around_signs(x: Any) -> Any:
        signs = lq.quantizers.SteSign()(x)
        # LCE crashes at sizes of 64 bits.
        return tf.pad(signs, np.array([[0, 0], [1, 1], [1, 1], [0, 0]]), constant_values=1.0)

    rows = np.linspace(-2, 2, 8, dtype=np.float32).reshape(1, 8, 1, 1)
    backbone = network(
        layers.ZeroPadding2D(1),
        layers.DepthwiseConv2D(3, strides=2, name="depthwise"),
        norm,
        quantized(lq.layers.QuantConv2D, 16, 3, input_quantizer="ste_tern", name="of_ternary"),
        lambda x: x * rows + rows,
        norm,
        lq.quantizers.SteTern(0.3),
        layers.Conv2D(8, 1, name="of_ternary_too"),
        norm,
        ones_around_signs,
        quantized(
            lq.layers.QuantConv2D, 64, 3, strides=2, padding="valid", input_quantizer=None, name="b"
        ),
        norm,
        layers.MaxPooling2D(2, name="pool"),
        quantized(lq.layers.QuantConv2D, 64, 3, groups=2, name="small_and_grouped"),
        norm,
        size=16,
        filters=8,
    )
    case = assert_converts(backbone, tmp_path, sharing="fusion")
    # LCE's other kernel has no groups.
    assert EnsembleInterpreter(case.path).kernel == "indirect"
    with pytest.raises(EnsembleError, match=r"`kernel` 'default' .* groups: use 'indirect'"):
        EnsembleInterpreter(case.path, kernel="default")


def test_operators_that_cannot_run_are_refused_with_their_layers() -> None:
    backbone = network(
        layers.Conv2D(8, 1, activation="gelu", name="with_gelu"),
        norm,
        layers.Activation("softsign", name="with_softsign"),
        size=4,
        filters=8,
    )
    found = r"Erfc of the layer 'with_gelu', Softsign of the layer 'with_softsign'"
    with (
        pytest.warns(UserWarning, match="'with_gelu' computes gelu.*'with_softsign'"),
        pytest.raises(EnsembleError, match=rf"can't run.*{found}.*gelu with `approximate=True`"),
    ):
        check_convertible(backbone)


def test_a_quantizer_that_averages_over_the_batch_is_refused_and_told_at_once(tmp_path) -> None:
    averaging = lq.quantizers.MagnitudeAwareSign()
    backbone = network(
        quantized(lq.layers.QuantConv2D, 8, 1, input_quantizer=averaging, name="a"),
        layers.GlobalMaxPooling2D(keepdims=True),
        size=4,
        filters=8,
    )
    with pytest.warns(UserWarning, match="not converted.*quantizer of the layer 'a' averages"):
        ensemble = randomized(build_ensemble(backbone, 2))
    with pytest.raises(EnsembleError, match="depend on the other images of the batch"):
        converted(ensemble, tmp_path)


def test_an_untrained_network_is_converted_right_or_not_at_all(tmp_path) -> None:
    """Of sums with 0 rounding decides, so it is tried with statistics of the images."""
    # LCE moves the sign before the pooling, and forgets that ReLU leaves nothing negative.
    wrong = network(
        norm,
        layers.MaxPooling2D(2),
        layers.ReLU(),
        quantized(lq.layers.QuantConv2D, 8, 1, name="a"),
        size=4,
        filters=8,
    )
    ensemble = build_ensemble(wrong, 2, jitter=0.1)
    before = ensemble.get_weights()
    with pytest.raises(EnsembleError, match="doesn't compute what Keras computes"):
        convert_ensemble(ensemble, tmp_path / "wrong.tflite", mean=MEAN, std=STD)
    assert not list(tmp_path.iterdir())
    for one, other in zip(before, ensemble.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_map_that_a_shortcut_reads_again_outlives_its_reshaping(tmp_path) -> None:
    def by_rows(x: Any) -> Any:
        x = norm(x)
        y = layers.Reshape((64, 8))(x)
        y = layers.Reshape((8, 8, 8))(norm(layers.ReLU()(y)))
        return layers.Add()([y, layers.ReLU()(x)])

    backbone = network(
        by_rows,
        quantized(lq.layers.QuantConv2D, 8, 3, name="a"),
        norm,
        size=8,
        filters=8,
    )
    case = assert_converts(backbone, tmp_path, sharing="fusion")
    images = pixels(8, backbone.input_shape[1:])
    for backend, kernel in (("lce", "default"), ("litert", "delegate"), ("litert", "builtin")):
        found = EnsembleInterpreter(case.path, backend=backend, kernel=kernel)
        np.testing.assert_allclose(
            found.predict_logits(images), np.stack(case.logits(images)), atol=1e-4
        )
    export_file(case.path, tmp_path / "c")  # compares its source with the file
