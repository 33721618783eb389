"""Verification finds agreement where there is some, and only there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from larq_ensemble.convert import comparison
from larq_ensemble.convert.verification import VerificationReport, verify
from larq_ensemble.ensembles.building import build_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras
from larq_ensemble.progress import listening
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.backends import BACKENDS

from .conftest import (
    MEAN,
    STD,
    Converted,
    converted,
    pixels,
    randomized,
    shared_backbone,
    small_ensemble,
)


def test_agreement(fusion: Converted) -> None:
    images = pixels(50, (16, 16, 3))
    labels = np.zeros(50, int)
    told = []
    with listening(lambda work: told.append((work.what, work.done))):
        report = verify(fusion.model, fusion.path, images, labels, mean=MEAN, std=STD)
    assert {("running the file", 50), ("running Keras", 50)} <= {*told}
    assert report.samples == 50
    assert len(report.member_argmax_agreement) == 3
    assert min(report.member_argmax_agreement) >= 0.95
    assert report.flip_rate == pytest.approx(1 - np.mean(report.member_argmax_agreement))
    normalized = ((images / 255 - MEAN) / STD).astype(np.float32)
    classes = fusion.model(normalized, training=False)[-1].numpy().argmax(-1)
    assert report.keras_top1 == pytest.approx(100 * (classes == 0).mean())
    assert report.backends.keys() == {*BACKENDS}
    chosen, other = (report.backends[name] for name in ("lce", "litert"))
    assert (report.backend, report.kernel) == ("lce", chosen.kernel)
    assert all(vars(report)[name] == value for name, value in vars(chosen).items())
    # They differ by rounding only, so they agree with Keras on nearly the same images.
    assert abs(other.flip_rate - chosen.flip_rate) <= 0.02
    assert abs(report.tflite_top1 - report.keras_top1) <= 4


def test_a_back_end_that_refuses_the_file_is_left_out(
    fusion: Converted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: Any, backend: str, **__: Any) -> EnsembleInterpreter:
        raise EnsembleError(f"{backend} refuses the model")

    monkeypatch.setattr(comparison, "EnsembleInterpreter", refusing)
    with pytest.warns(UserWarning, match="Only lce runs the file: litert refuses the model"):
        report = verify(fusion.model, fusion.path, pixels(2, (16, 16, 3)), mean=MEAN, std=STD)
    assert report.backends.keys() == {"lce"}


def results(report: VerificationReport) -> dict[str, Any]:
    """All but the kernels, which are the fastest now."""
    return {
        **vars(report),
        "kernel": None,
        "backends": {name: replace(of, kernel="") for name, of in report.backends.items()},
    }


def test_one_image(fusion: Converted) -> None:
    batch = pixels(1, (16, 16, 3))
    one, same = (
        verify(fusion.model, fusion.path, given, [3], mean=MEAN, std=STD)
        for given in (batch[0], batch)
    )
    assert results(one) == results(same)


def test_labels_in_a_column(fusion: Converted) -> None:
    images, labels = pixels(20, (16, 16, 3)), np.arange(20) % 7
    flat, column = (
        verify(fusion.model, fusion.path, images, given, mean=MEAN, std=STD)
        for given in (labels, labels[:, np.newaxis].astype(np.uint8))
    )
    assert results(column) == results(flat)


@pytest.mark.parametrize(
    "labels", [np.eye(7)[np.zeros(20, int)], np.zeros(19, int), np.full(20, 7)]
)
def test_other_labels_are_refused_before_the_work(
    fusion: Converted, monkeypatch: pytest.MonkeyPatch, labels: np.ndarray
) -> None:
    monkeypatch.setattr(EnsembleInterpreter, "predict_logits", None)
    with pytest.raises(EnsembleError, match="`labels`"):
        verify(fusion.model, fusion.path, pixels(20, (16, 16, 3)), labels, mean=MEAN, std=STD)


def test_disagreement_is_found(fusion: Converted, tmp_path) -> None:
    """A file whose members stand in another order than the model's."""
    swapped = small_ensemble(3)
    for layer in fusion.model.layers:
        name = layer.name
        if name.startswith("member_") and layer.weights:
            member = int(name.split("_")[1])
            source = name.replace(f"member_{member}_", f"member_{(member + 1) % 3}_", 1)
            swapped.get_layer(name).set_weights(fusion.model.get_layer(source).get_weights())
        elif layer.weights:
            swapped.get_layer(name).set_weights(layer.get_weights())
    report = verify(swapped, fusion.path, pixels(50, (16, 16, 3)), mean=MEAN, std=STD)
    assert max(report.member_argmax_agreement) < 0.8
    assert report.flip_rate > 0.2
    # The combination doesn't depend on the order.
    assert report.ensemble_argmax_agreement >= 0.95
    assert report.keras_top1 is None


def other_classes() -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    return build_ensemble(keras.Model(inputs, keras.layers.Dense(5)(pooled)), 3)


def test_a_file_of_the_first_members(tmp_path) -> None:
    case = converted(small_ensemble(3, scheme="voting"), tmp_path, members=2)
    images = pixels(40, (16, 16, 3))
    report = verify(case.model, case.path, images, mean=MEAN, std=STD)
    assert len(report.member_argmax_agreement) == 2
    assert report.ensemble_argmax_agreement >= 0.95


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (lambda: build_ensemble(shared_backbone(), 2), "members 3 in the file, 2 in"),
        (other_classes, "classes 7 in the file, 5 in"),
        (lambda: build_ensemble(shared_backbone(), 3, scheme="voting"), "scheme 'fusion'"),
        (lambda: build_ensemble(shared_backbone(size=20), 3), "input shape"),
    ],
)
def test_another_ensemble(fusion: Converted, model, what: str) -> None:
    with pytest.raises(EnsembleError, match=what):
        verify(model(), fusion.path, pixels(1, (16, 16, 3)), mean=MEAN, std=STD)


def test_no_images(fusion: Converted) -> None:
    with pytest.raises(EnsembleError, match="`images` is empty"):
        verify(fusion.model, fusion.path, pixels(0, (16, 16, 3)), mean=MEAN, std=STD)


@pytest.mark.parametrize("scheme", ["nested_fusion", "voting", "hard_voting", "batch_bagging"])
def test_schemes_combine_as_keras_does(scheme: str, tmp_path) -> None:
    model = randomized(build_ensemble(shared_backbone(widths=(8,)), 3, scheme=scheme))
    case = converted(model, tmp_path)
    images = pixels(40, (16, 16, 3))
    report = verify(case.model, case.path, images, mean=MEAN, std=STD)
    assert report.ensemble_argmax_agreement >= 0.95
