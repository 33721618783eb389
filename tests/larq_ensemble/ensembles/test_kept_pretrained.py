"""An ensemble whose member 0 is the pretrained network itself, untouched."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.convert import convert_ensemble
from larq_ensemble.ensembles import build_ensemble, load_ensemble
from larq_ensemble.ensembles.names import own_name
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras
from larq_ensemble.runtime import EnsembleInterpreter

from ..conftest import drawn_from_variables, images, labels, tiny_backbone

MEMBERS = 2


@pytest.fixture(scope="module")
def backbone():
    """With Dropout, which would disturb a member that trains."""
    return tiny_backbone(dropout=0.5)


@pytest.fixture(scope="module", autouse=True)
def repeatable():
    """Also for `kept`, which the tests share."""
    with drawn_from_variables():
        yield


def trained(backbone, **compiled):
    keras.utils.set_random_seed(3)
    ensemble = build_ensemble(backbone, MEMBERS, scheme="nested_fusion", keep_pretrained=True)
    ensemble.compile(keras.optimizers.SGD(0.1), **compiled)
    for _ in range(2):
        ensemble.train_on_batch(images(), labels())
    return ensemble


def own_weights(ensemble, member: int) -> dict[str, list[np.ndarray]]:
    prefix = own_name(member, "")
    return {
        layer.name.removeprefix(prefix): layer.get_weights()
        for layer in ensemble.own_layers(member)
    }


@pytest.fixture(scope="module")
def kept(backbone):
    """Trained traced, as by default."""
    return trained(backbone)


def assert_member_0_is(backbone, ensemble) -> None:
    """Its variables, bit for bit, and its logits."""
    for name, weights in own_weights(ensemble, 0).items():
        for weight, expected in zip(weights, backbone.get_layer(name).get_weights(), strict=True):
            np.testing.assert_array_equal(weight, expected)
    logits, expected = ensemble.member(0)(images()), backbone(images())
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_the_others_are_trained_to_go_with_it(backbone, kept):
    assert kept.is_traced
    assert_member_0_is(backbone, kept)
    start = build_ensemble(backbone, MEMBERS, scheme="nested_fusion")
    before = own_weights(start, 1)
    for name, weights in own_weights(kept, 1).items():
        assert all((one != two).any() for one, two in zip(weights, before[name])), name
    first = kept(images())[MEMBERS]  # `first_1`
    expected = keras.activations.softmax(backbone(images()))
    np.testing.assert_allclose(first, expected, rtol=1e-5, atol=1e-6)


def test_traced_training_is_that_of_keras(backbone, kept):
    """What member 0 adds to the mean has no Dropout and no batch statistics in either.

    With recomputation Keras runs the layers, and member 0 has no second run.
    """
    plain = trained(backbone, recompute=True)
    assert not plain.is_traced
    assert_member_0_is(backbone, plain)
    for weight, expected in zip(kept.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-5)
    training, inference = (plain(images(), training=flag) for flag in (True, False))
    np.testing.assert_allclose(training[0], inference[0], rtol=1e-4, atol=1e-5)
    assert np.abs(training[1] - inference[1]).max() > 0.01


def test_a_saved_ensemble_goes_on_keeping_it(backbone, kept, tmp_path):
    kept.save(tmp_path / "kept.keras")
    loaded = load_ensemble(tmp_path / "kept.keras")
    assert loaded.is_traced
    assert len(loaded.trainable_weights) == len(kept.trainable_weights) > 0
    assert not any(layer.trainable_weights for layer in loaded.own_layers(0))
    loaded(images(), training=True)  # which changes the statistics of the others
    assert_member_0_is(backbone, loaded)
    mean = own_weights(loaded, 1)["layer1_bn"][2]
    assert (mean != own_weights(kept, 1)["layer1_bn"][2]).any()


def test_it_is_converted_as_any_other(kept, tmp_path):
    path = tmp_path / "kept.tflite"
    convert_ensemble(kept, path, mean=[0.0] * 3, std=[1.0] * 3)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    expected = kept(pixels / np.float32(255))
    interpreter = EnsembleInterpreter(path, members=1)
    np.testing.assert_allclose(interpreter.predict(pixels), expected[MEMBERS], atol=1e-4)
    interpreter.members = MEMBERS
    np.testing.assert_allclose(interpreter.predict(pixels), expected[-1], atol=1e-4)


def test_bfloat16(bfloat16):
    """In training too its logits are those of the backbone: sums of so few signs are exact."""
    backbone = tiny_backbone()
    ensemble = build_ensemble(backbone, 2, keep_pretrained=True)
    ensemble.compile("sgd", bfloat16=True)
    logits = ensemble(images(), training=True)[0]
    np.testing.assert_allclose(logits, backbone(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scheme", ["bagging", "soft_boosting"])
def test_other_schemes(backbone, scheme):
    """Before training; members with an input each, and those whose head starts at zero."""
    independent = scheme == "bagging"
    ensemble = build_ensemble(
        backbone, 2, scheme=scheme, keep_pretrained=True, independent_inputs=independent
    )
    ensemble.compile("sgd")
    assert ensemble.is_traced
    x = [images(seed=1), images(seed=2)] if independent else images(seed=1)
    expected = backbone(images(seed=1))
    np.testing.assert_allclose(ensemble(x, training=True)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": 1}, "`keep_pretrained` 1 leaves nothing to train with `members` 1: .* 2 mem"),
        ({"keep_pretrained": 2}, "`keep_pretrained` 2 needs `mirror`"),
        ({"keep_pretrained": 2, "mirror": True}, "leaves nothing to train with `members` 2: .* 3"),
        ({"keep_pretrained": 3, "mirror": True}, "`keep_pretrained` must be .* 0 to 2, got 3"),
        ({"keep_pretrained": "2"}, "`keep_pretrained` must be .* 0 to 2, got '2'"),
        ({"initial": "random", "sharing": "none"}, "does not go with `initial` 'random'"),
        ({"scheme": "boosting"}, "`keep_pretrained` does not go with the scheme 'boosting'"),
        ({"scheme": "stochastic_rounding"}, "does not go with the scheme 'stochastic_rounding'"),
    ],
)
def test_where_it_makes_no_sense(backbone, arguments, message):
    with pytest.raises(EnsembleError, match=message):
        build_ensemble(backbone, **{"members": 2, "keep_pretrained": True, **arguments})
