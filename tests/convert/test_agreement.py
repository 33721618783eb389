"""A conversion compares its bytes with Keras, and the pixels' scale with that of training."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from larq_ensemble.convert import agreement, verify
from larq_ensemble.convert.agreement import check_agreement, check_input_scale
from larq_ensemble.convert.comparison import some_images
from larq_ensemble.convert.conversion import convert_ensemble, normalization_of
from larq_ensemble.data.normalization import Normalization
from larq_ensemble.ensembles.building import build_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, lq

from .conftest import MEAN, STD, Converted, pixels, randomized, small_ensemble

NORMALIZATION = Normalization(MEAN, STD)


def test_the_report_compares_the_first_the_middle_and_the_last_member(fusion: Converted) -> None:
    found = fusion.report.agreement
    assert found.members == [0, 1, 2]
    assert found.images == 8
    # Against the file through its reader, on the same images.
    images = some_images((16, 16, 3))
    expected = verify(fusion.model, fusion.path, images, mean=MEAN, std=STD)
    assert found.argmax_agreement == expected.member_argmax_agreement
    assert max(found.deviation) < 1e-3
    assert fusion.report.to_dict()["agreement"]["members"] == [0, 1, 2]


def test_another_networks_file_is_refused(fusion: Converted) -> None:
    """By weights of one of three members only, and by a normalization."""
    data, images = fusion.path.read_bytes(), some_images((16, 16, 3))
    other = small_ensemble(3)  # the same weights
    check_agreement(other, data, NORMALIZATION, images)
    head = other.get_layer("member_2_linear")
    head.set_weights([-weight for weight in head.get_weights()])
    with pytest.raises(EnsembleError, match=r"logits of member 2 differ by 2 of their length"):
        check_agreement(other, data, NORMALIZATION, images)
    with pytest.raises(EnsembleError, match="logits of member 0"):
        check_agreement(fusion.model, data, Normalization.raw(3), images)


def test_nothing_is_written_if_the_file_is_wrong(fusion: Converted, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(agreement, "LIMITS", {"float32": -1.0})
    out = tmp_path / "out.tflite"
    out.write_bytes(b"precious")
    with pytest.raises(EnsembleError, match="doesn't compute what Keras computes"):
        convert_ensemble(fusion.model, out, mean=MEAN, std=STD)
    assert out.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [out]


def test_images_have_power_at_all_sizes() -> None:
    images = some_images((32, 20, 3))
    assert (images.shape, images.dtype) == ((8, 32, 20, 3), np.uint8)
    assert 40 < images.std() < 70
    assert some_images((224, 224, 1)).shape == (3, 224, 224, 1)
    # Means of blocks of 8x8 white pixels would have 1/8 of the deviation of the pixels.
    blocks = images[:, :32, :16].reshape(8, 4, 8, 2, 8, 3).mean(axis=(2, 4))
    assert blocks.std() > 0.4 * images.std()


def trained_on(scale: float) -> keras.Model:
    """An ensemble whose batch norm has seen pixels with this scale, in one long training step."""
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    x = keras.layers.BatchNormalization(momentum=0.0, name="norm")(x)
    x = lq.layers.QuantConv2D(8, 3, input_quantizer="ste_sign", kernel_quantizer="ste_sign")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    backbone = keras.Model(inputs, keras.layers.Dense(4)(x))
    # Photographs are smooth: every pixel of an image is near its neighbours.
    coarse = np.random.default_rng(5).normal(128, 50, (64, 4, 4, 3))
    smooth = np.clip(coarse.repeat(4, 1).repeat(4, 2), 0, 255)
    backbone(smooth.astype(np.float32) * scale, training=True)
    return build_ensemble(backbone, 2)


RAW = Normalization.raw(3)
UNIT = Normalization([0.0] * 3, [1.0] * 3)


@pytest.mark.parametrize(
    ("scale", "right", "wrong"),
    [
        (1.0, RAW, NORMALIZATION),
        (1.0, RAW, UNIT),
        (1 / 255, UNIT, RAW),
        (1 / 64, NORMALIZATION, RAW),
    ],
    ids=["raw for normalized", "raw for unit", "unit for raw", "normalized for raw"],
)
def test_another_scale_than_in_training(scale: float, right, wrong) -> None:
    """What neither side can tell from the logits: both get the same wrong normalization."""
    ensemble, images = trained_on(scale), some_images((16, 16, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_input_scale(ensemble, right, images, are_given=False)
    with pytest.warns(UserWarning, match=r"images of another scale.*'member_0_norm'"):
        check_input_scale(ensemble, wrong, images, are_given=False)


def test_the_users_images_tell_smaller_differences() -> None:
    ensemble = trained_on(1 / 255)
    images = pixels(8, (4, 4, 3)).repeat(4, 1).repeat(4, 2)
    with pytest.warns(UserWarning, match="images of another scale"):
        check_input_scale(ensemble, Normalization([0.5] * 3, [0.15] * 3), images, are_given=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_input_scale(ensemble, UNIT, images, are_given=True)
        untrained = small_ensemble(2)
        for layer in untrained.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.moving_mean.assign(0 * layer.moving_mean)
                layer.moving_variance.assign(0 * layer.moving_variance + 1)
        check_input_scale(untrained, RAW, images, are_given=True)


def test_one_object_says_the_normalization() -> None:
    ensemble = small_ensemble(1)
    with pytest.raises(EnsembleError, match=r"not known: set `ensemble.normalization`.*raw\(3\)"):
        normalization_of(ensemble, None, None)
    with pytest.raises(EnsembleError, match="both `mean` and `std`"):
        normalization_of(ensemble, MEAN, None)
    assert normalization_of(ensemble, MEAN, STD) == NORMALIZATION
    ensemble.normalization = NORMALIZATION
    assert normalization_of(ensemble, None, None) == NORMALIZATION
    rounded = np.float32(MEAN), np.float32(STD)
    assert normalization_of(ensemble, *rounded) == NORMALIZATION
    with pytest.raises(EnsembleError, match=r"`mean` \[0.5, 0.5, 0.5\] and .* contradict"):
        normalization_of(ensemble, [0.5] * 3, STD)
    with pytest.raises(EnsembleError, match="`mean` must hold 3 numbers"):
        normalization_of(ensemble, [0.4], [0.2])


def test_scaling_layers_and_integers_in_the_network(tmp_path) -> None:
    """Raw pixels go in; Keras's preprocessing layers scale them."""
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    adapted = keras.layers.Normalization()  # with weights: its mean and variance
    adapted.adapt(pixels(9, (8, 8, 3)) / 255)
    x = adapted(x)
    x = keras.layers.Conv2D(8, 3, name="stem")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization()(x))
    ensemble = randomized(build_ensemble(keras.Model(inputs, keras.layers.Dense(4)(x)), 2))
    out = tmp_path / "out.tflite"
    report = convert_ensemble(ensemble, out)  # integers are pixels as they are
    assert report.agreement.argmax_agreement == [1, 1]
    images = pixels(20, (8, 8, 3))
    assert verify(ensemble, out, images).flip_rate == 0
    with pytest.raises(EnsembleError, match="contradict"):
        convert_ensemble(ensemble, out, mean=MEAN, std=STD)
    with pytest.raises(EnsembleError, match=r"`images` must have the shape \[n, 8, 8, 3\]"):
        convert_ensemble(ensemble, out, images=images[:, :4])
    with pytest.warns(UserWarning, match="No value of `images` is above 1"):
        convert_ensemble(ensemble, out, images=images % 2)


def test_weights_that_are_not_finite(tmp_path) -> None:
    """In a filter only its sign would be left, and in a norm before a sign only a threshold."""
    ensemble, out = small_ensemble(2), tmp_path / "out.tflite"
    for name, weight, value, what in (
        ("member_1_layer2_0_bn1", "gamma", np.nan, "weights that are not finite"),
        ("member_1_layer2_0_bn1", "moving_variance", -1.0, "moving variance of -1,"),
        ("layer2_0_conv1", "kernel", np.nan, "weights that are not finite"),
        ("member_0_linear", "bias", -np.inf, "weights that are not finite"),
    ):
        variable = getattr(ensemble.get_layer(name), weight)
        values = variable.numpy()
        changed = values.copy()
        changed.flat[0] = value
        variable.assign(changed)
        with pytest.raises(EnsembleError, match=f"{name}' has .*{what}"):
            convert_ensemble(ensemble, out, mean=MEAN, std=STD)
        variable.assign(values)
    assert not out.exists()
