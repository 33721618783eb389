"""The cascade stops by its rule, and predicts what that number of members predicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.cascade import (
    Cascade,
    calibrated,
    calibrated_prediction,
    log_margin,
    run_cascade,
)
from larq_ensemble.runtime.combination import COMBINATIONS, combine, softmax

M, N, CLASSES = 4, 200, 5
WEIGHTS = (1.0, 0.5, 2.0, 1.5)
TEMPERATURES = (1.5, 1.2, 0.7, 1.0)


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 2, (M, N, CLASSES)).astype(np.float32)


@pytest.mark.parametrize("scheme", ["fusion", "boosting"])
def test_temperature_scales_the_combined_logits(logits: np.ndarray, scheme: str) -> None:
    combined = logits.mean(axis=0) if scheme == "fusion" else logits.sum(axis=0)
    exponentials = np.exp(combined.astype(np.float64) / 1.7)
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(calibrated(combine(logits, scheme), scheme, 1.7), expected, 1e-4)


def test_temperature_of_a_mean_of_softmaxes_is_a_power() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2]], np.float32)
    expected = np.sqrt(probabilities) / np.sqrt(probabilities).sum()
    np.testing.assert_allclose(calibrated(probabilities, "bagging", 2), expected, 1e-5)


def test_temperature_scales_the_shares_of_votes() -> None:
    """Most shares are 0, so the scores are the shares themselves and not their logarithms."""
    got = calibrated(np.array([[0.75, 0.25, 0, 0]], np.float32), "hard_voting", 0.5)
    expected = np.exp([1.5, 0.5, 0, 0])
    np.testing.assert_allclose(got, [expected / expected.sum()], 1e-5)


@pytest.mark.parametrize("scheme", ["fusion", "bagging", "boosting", "hard_voting"])
def test_temperatures_keep_the_predicted_class(logits: np.ndarray, scheme: str) -> None:
    probabilities = combine(logits, scheme, WEIGHTS)
    for temperature in (0.1, 1.0, 8.0):
        got = calibrated(probabilities, scheme, temperature)
        np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_array_equal(got.argmax(axis=1), probabilities.argmax(axis=1))


def test_log_margin_by_hand() -> None:
    probabilities = np.array([[0.1, 0.6, 0.3], [0.5, 0, 0.5], [1, 0, 0]])
    margins = log_margin(probabilities)
    np.testing.assert_allclose(margins[:2], [np.log(2), 0])
    assert 50 < margins[2] < np.inf
    np.testing.assert_array_equal(log_margin(np.ones((2, 1))), [0, 0])


@pytest.mark.parametrize("scheme", ["fusion", "boosting", "hard_voting", "voting"])
def test_what_a_device_compares_in_place_of_logarithms(logits: np.ndarray, scheme: str) -> None:
    """The conditions of docs/guides/deployment.md."""
    temperature, threshold = 1.7, 0.4
    margins = log_margin(calibrated_prediction(logits, scheme, None, [temperature] * M))
    if scheme == "hard_voting":
        values = np.stack([(logits.argmax(axis=-1) == k).mean(axis=0) for k in range(CLASSES)], 1)
    elif scheme == "voting":
        values = softmax(logits).mean(axis=0)
    else:
        values = logits.mean(axis=0) if scheme == "fusion" else logits.sum(axis=0)
    second, first = np.sort(values, axis=-1)[:, -2:].T
    if scheme == "voting":
        enough = first >= second * np.exp(temperature * threshold)
    else:
        enough = first - second >= temperature * threshold
    assert 0 < enough.sum() < N
    np.testing.assert_array_equal(enough, margins >= threshold)


@pytest.mark.parametrize("scheme", sorted(COMBINATIONS))
@pytest.mark.parametrize("members", [1, 3, M])
def test_the_cascade_as_a_loop_over_images(logits: np.ndarray, scheme: str, members: int) -> None:
    """Against a plain loop, for each image alone."""
    cascade = Cascade((0.9, None, 0.4))

    def probabilities_of(rows: np.ndarray) -> np.ndarray:
        return calibrated_prediction(rows, scheme, WEIGHTS, TEMPERATURES)

    asked = np.zeros(N, int)

    def member_logits(member: int, which: np.ndarray) -> np.ndarray:
        asked[which] += 1
        return logits[member, which]

    answer = run_cascade(
        cascade, member_logits, probabilities_of, images=N, classes=CLASSES, members=members
    )
    for image in range(N):
        m = 1
        while m < members:
            running = combine(logits[:m, [image]], scheme, WEIGHTS)
            first, second = np.sort(
                calibrated(running, scheme, TEMPERATURES[m - 1])[0].astype(np.float64)
            )[:-3:-1]
            threshold = cascade.thresholds[m - 1]
            if threshold is not None and np.log(first / second) >= threshold:
                break
            m += 1
        assert answer.members[image] == m
        expected = calibrated_prediction(logits[:m, [image]], scheme, WEIGHTS, TEMPERATURES)
        np.testing.assert_allclose(answer.probabilities[image], expected[0], 1e-5, 1e-7)
    # A member is only asked for images that were not done before.
    np.testing.assert_array_equal(asked, answer.members)
    assert answer.probabilities.dtype == np.float32


def test_no_images_give_no_predictions(logits: np.ndarray) -> None:
    answer = run_cascade(
        Cascade((0.5,)),
        lambda member, which: logits[member, which],
        lambda rows: combine(rows, "fusion"),
        images=0,
        classes=CLASSES,
        members=2,
    )
    assert answer.probabilities.shape == (0, CLASSES)
    assert answer.members.shape == (0,)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "must hold a rule"),
        ({"rule": "log_margin"}, "must hold a rule"),
        ({"rule": "log_margin", "thresholds": 3}, "must hold a rule"),
        ({"thresholds": [1.0]}, "Unknown rule ''"),
        ({"rule": "entropy", "thresholds": [1.0]}, "Unknown rule 'entropy'.*Known: log_margin"),
        ({"rule": "log_margin", "thresholds": ["1"]}, "finite numbers or null.*Received"),
        ({"rule": "log_margin", "thresholds": [True]}, "finite numbers or null"),
        ({"rule": "log_margin", "thresholds": [float("nan")]}, "finite numbers or null"),
    ],
)
def test_bad_cascades_are_refused(values: Any, message: str) -> None:
    with pytest.raises(EnsembleError, match=message):
        Cascade.from_json(values)


def test_thresholds_can_be_numpy_numbers() -> None:
    assert Cascade((np.float64(0.5), None, 1)).thresholds == (0.5, None, 1)
