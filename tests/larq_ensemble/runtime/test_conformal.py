"""Prediction sets against sets by hand, and their promise against many draws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.conformal import SCORES, Conformal, fit_conformal

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.05, 0.05, 0.9]])


def test_sets_of_classes_that_are_likely_enough_by_hand() -> None:
    sets = Conformal("lac", 0.75).sets(PROBABILITIES)  # p of 0.25 or more
    assert sets.tolist() == [[True, False, False], [True, True, True], [False, False, True]]
    # The likeliest class is there, however strict.
    assert Conformal("lac", 0.2).sets(PROBABILITIES).argmax(axis=1).tolist() == [0, 1, 2]
    assert Conformal("lac", 0.2).sets(PROBABILITIES).sum(axis=1).tolist() == [1, 1, 1]


def test_sets_of_the_likeliest_classes_until_their_sum_by_hand() -> None:
    sets = Conformal("aps", 0.71).sets(PROBABILITIES)
    # 0.7 is not more than 0.71, so the second class, too; 0.4 + 0.3 likewise, so all three.
    assert sets.tolist() == [[True, True, False], [True, True, True], [False, False, True]]
    assert Conformal("aps", 0.0).sets(PROBABILITIES).sum(axis=1).tolist() == [1, 1, 1]


def test_the_threshold_by_hand() -> None:
    labels = np.array([0, 1, 0])  # LAC: 0.3, 0.6, 0.95; APS: 0, 0, 0.9 + 0.05 or 0.9
    assert fit_conformal(PROBABILITIES, labels, alpha=0.5).threshold == pytest.approx(0.6)
    assert fit_conformal(PROBABILITIES, labels, alpha=0.25).threshold == pytest.approx(0.95)
    aps = fit_conformal(PROBABILITIES, labels, alpha=0.25, method="aps")
    assert aps.threshold == pytest.approx(0.9)
    # Three images can't promise more than 3/4: all classes are in the set.
    unsure = fit_conformal(PROBABILITIES, labels, alpha=0.2)
    assert unsure.threshold == math.inf
    assert unsure.sets(PROBABILITIES).all()


@pytest.mark.parametrize("method", list(SCORES))
@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_sets_hold_the_class_as_often_as_promised(method: str, alpha: float) -> None:
    """Over many draws of both halves, also of a network that is badly calibrated."""
    draw = np.random.default_rng(0)
    n, rounds, held = 39, 300, []
    for _ in range(rounds):
        truth = draw.dirichlet(np.full(6, 0.3), 2 * n)
        labels = (truth.cumsum(axis=1) > draw.random((2 * n, 1))).argmax(axis=1)
        answers = truth**2 + 0.05  # overconfident where it is sure, and never sure
        answers /= answers.sum(axis=1, keepdims=True)
        rule = fit_conformal(answers[:n], labels[:n], alpha=alpha, method=method)
        held.append(rule.sets(answers[n:])[np.arange(n), labels[n:]].mean())
    # Exact up to 1 / (n + 1), if the likeliest class is rarely added.
    deviation = 4 * np.std(held) / np.sqrt(rounds)
    assert 1 - alpha - deviation < np.mean(held) < 1 - alpha + 1 / (n + 1) + deviation


@pytest.mark.parametrize("alpha", [0, 1, -0.1, float("nan"), None, True])
def test_alpha_out_of_range(alpha: float) -> None:
    with pytest.raises(EnsembleError, match="`alpha` must be above 0 and below 1"):
        fit_conformal(PROBABILITIES, np.array([0, 1, 2]), alpha=alpha)


def test_other_methods_and_labels() -> None:
    with pytest.raises(EnsembleError, match=r"Unknown method 'raps'\. Known: aps, lac"):
        fit_conformal(PROBABILITIES, np.array([0, 1, 2]), alpha=0.1, method="raps")
    with pytest.raises(EnsembleError, match="`labels` must be from 0 to 2"):
        fit_conformal(PROBABILITIES, np.array([0, 1, 3]), alpha=0.1)


@pytest.mark.parametrize("probabilities", [np.full((4, 3), np.nan), np.full(3, 1 / 3)])
def test_probabilities_that_are_none(probabilities: np.ndarray) -> None:
    """NaN would be a threshold that no class reaches."""
    with pytest.raises(EnsembleError, match="`probabilities` must be finite floats"):
        fit_conformal(probabilities, np.zeros(len(probabilities), int), alpha=0.1)
