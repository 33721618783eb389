"""Metrics against values by hand, scikit-learn and plain loops."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.metrics import (
    adaptive_calibration_error,
    area_under_risk_coverage,
    brier_score,
    calibration_error_by_chance,
    disagreement,
    entropy,
    excess_area_under_risk_coverage,
    expected_calibration_error,
    false_positive_rate,
    mutual_information,
    negative_log_likelihood,
    pairwise_disagreement,
    risk_coverage,
    top_k_accuracy,
    wilson_interval,
)

# Without wheels for some of the machines that the runtime is for.
sklearn_metrics = pytest.importorskip("sklearn.metrics")

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.05, 0.05, 0.9], [0.6, 0.4, 0.0]])
LABELS = np.array([0, 0, 2, 2])


@pytest.fixture
def random_case() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(3)
    return draw.dirichlet(np.full(7, 0.5), 200), draw.integers(0, 7, 200)


def test_top_k_by_hand() -> None:
    assert top_k_accuracy(PROBABILITIES, LABELS, k=1) == 50.0
    # Second example: labels 0 and 2 tie for second place, the lower index counts as higher.
    assert top_k_accuracy(PROBABILITIES, LABELS, k=2) == 75.0
    assert top_k_accuracy(PROBABILITIES, np.array([0, 2, 2, 2]), k=2) == 50.0
    assert top_k_accuracy(PROBABILITIES, LABELS, k=3) == 100.0


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_as_scikit_learn(random_case, k: int) -> None:
    probabilities, labels = random_case
    expected = sklearn_metrics.top_k_accuracy_score(labels, probabilities, k=k, labels=range(7))
    assert top_k_accuracy(probabilities, labels, k=k) == pytest.approx(100 * expected)


def test_negative_log_likelihood() -> None:
    expected = -(math.log(0.7) + math.log(0.3) + math.log(0.9) + math.log(1e-12)) / 4
    assert negative_log_likelihood(PROBABILITIES, LABELS) == pytest.approx(expected)


def test_negative_log_likelihood_as_scikit_learn(random_case) -> None:
    probabilities, labels = random_case
    probabilities = (probabilities + 1e-3) / (1 + 7e-3)
    assert negative_log_likelihood(probabilities, labels) == pytest.approx(
        sklearn_metrics.log_loss(labels, probabilities, labels=range(7))
    )


def test_brier_by_hand() -> None:
    rows = [0.09 + 0.04 + 0.01, 0.49 + 0.16 + 0.09, 0.0025 + 0.0025 + 0.01, 0.36 + 0.16 + 1.0]
    assert brier_score(PROBABILITIES, LABELS) == pytest.approx(sum(rows) / 4)
    assert brier_score(np.array([[1.0, 0.0]]), np.array([1])) == 2.0


def test_brier_does_not_change_its_argument() -> None:
    probabilities = PROBABILITIES.copy()
    brier_score(probabilities, LABELS)
    np.testing.assert_array_equal(probabilities, PROBABILITIES)


def test_calibration_error_by_hand() -> None:
    # Of ten bins: 0.7 right, 0.4 wrong, 0.9 right, 0.6 wrong, each alone in its bin.
    expected = (0.3 + 0.4 + 0.1 + 0.6) / 4
    assert expected_calibration_error(PROBABILITIES, LABELS, bins=10) == pytest.approx(expected)
    # In one bin: confidence 2.6 / 4 against accuracy 2 / 4.
    assert expected_calibration_error(PROBABILITIES, LABELS, bins=1) == pytest.approx(0.6 / 4)


def test_calibration_error_of_certain_predictions() -> None:
    certain = np.eye(3)[[0, 1, 2, 0]]
    assert expected_calibration_error(certain, np.array([0, 1, 2, 0])) == 0.0
    assert expected_calibration_error(certain, np.array([0, 1, 2, 1])) == pytest.approx(0.25)


def test_calibration_error_as_a_loop_over_bins(random_case) -> None:
    probabilities, labels = random_case
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    expected = 0.0
    for low in np.arange(15) / 15:
        members = (confidence > low) & (confidence <= low + 1 / 15)
        if members.any():
            gap = abs(right[members].mean() - confidence[members].mean())
            expected += members.mean() * gap
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_disagreement_by_hand() -> None:
    votes = np.array([[0, 1, 2, 2], [0, 1, 1, 2], [0, 0, 2, 1]])
    # Of four images: members 0 and 1 differ on 1, 0 and 2 on 2, 1 and 2 on 3.
    assert disagreement(np.eye(3)[votes]) == pytest.approx((1 + 2 + 3) / 3 / 4)
    assert disagreement(np.eye(3)[votes[:1]]) == 0.0
    assert disagreement(np.eye(3)[votes[[1, 1, 1]]]) == 0.0


METRICS = pytest.mark.parametrize(
    "metric",
    [
        functools.partial(top_k_accuracy, k=1),
        negative_log_likelihood,
        brier_score,
        expected_calibration_error,
        adaptive_calibration_error,
    ],
)


@METRICS
@pytest.mark.parametrize(
    "same", [LABELS[:, np.newaxis], LABELS.tolist(), LABELS.astype(np.uint64), LABELS.astype("i1")]
)
def test_columns_lists_and_all_integers_are_labels(metric, same) -> None:
    """`[n, 1]` was compared with every row: a top-1 of 10 % in place of 97 %."""
    assert metric(PROBABILITIES, same) == metric(PROBABILITIES, LABELS)


BAD_LABELS = pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.eye(3)[LABELS], r"not one-hot: give `labels.argmax\(axis=1\)`.*shape \[4, 3\]"),
        (LABELS[:3], r"for 4 images. Received: int64 of shape \[3\]"),
        (np.append(LABELS, 0), r"for 4 images.*\[5\]"),
        (LABELS[np.newaxis], r"one class index per image"),
        (LABELS.reshape(2, 2), "one class index per image"),
        (np.int64(1), r"shape \[\]"),
        (LABELS.astype(float), "must be integers.*Received: float64"),
        (LABELS.astype(bool), "must be integers"),
        (LABELS.astype(str), "must be integers"),
        (LABELS + 1, "from 0 to 2.*Received: 1 to 3"),
        (LABELS - 1, "from 0 to 2.*Received: -1 to 1"),
        (np.array([0, 0, 2, 255], np.uint8), "Received: 0 to 255"),
        ([0, 1, 2, None], "must be integers"),
    ],
)


@METRICS
@BAD_LABELS
def test_other_labels_are_refused(metric, labels, message: str) -> None:
    with pytest.raises(EnsembleError, match=rf"`labels`.*{message}"):
        metric(PROBABILITIES, labels)


@METRICS
def test_no_examples_have_no_mean(metric) -> None:
    with pytest.raises(EnsembleError, match="at least one example"):
        metric(PROBABILITIES[:0], LABELS[:0])


def test_adaptive_calibration_error_by_hand() -> None:
    # In two bins by confidence: 0.4 wrong and 0.6 wrong; 0.7 right and 0.9 right.
    expected = (0.4 + 0.6 + 0.3 + 0.1) / 4
    assert adaptive_calibration_error(PROBABILITIES, LABELS, bins=2) == pytest.approx(expected)
    # One bin is one bin, and more bins than examples are one for each.
    for bins, same in ((1, 1), (50, 10)):
        assert adaptive_calibration_error(PROBABILITIES, LABELS, bins=bins) == pytest.approx(
            expected_calibration_error(PROBABILITIES, LABELS, bins=same)
        )


def test_adaptive_calibration_error_as_scikit_learns_quantiles(random_case) -> None:
    """scikit-learn gives the accuracy and confidence of bins of equal mass; 200 is 8 times 25."""
    probabilities, labels = random_case
    right = probabilities.argmax(axis=1) == labels
    accuracy, confidence = pytest.importorskip("sklearn.calibration").calibration_curve(
        right, probabilities.max(axis=1), n_bins=8, strategy="quantile"
    )
    assert adaptive_calibration_error(probabilities, labels, bins=8) == pytest.approx(
        np.abs(accuracy - confidence).mean()
    )


def test_the_calibration_error_by_chance_is_that_of_labels_drawn_from_the_predictions() -> None:
    draw = np.random.default_rng(0)
    probabilities = draw.dirichlet(np.full(5, 0.4), 2000)
    errors = []
    for _ in range(100):
        labels = (probabilities.cumsum(axis=1) > draw.random((2000, 1))).argmax(axis=1)
        errors.append(expected_calibration_error(probabilities, labels))
    by_chance = calibration_error_by_chance(probabilities)
    assert by_chance == pytest.approx(np.mean(errors), rel=0.05)
    assert calibration_error_by_chance(np.eye(3)) == 0


def test_pairwise_disagreement_as_a_loop_over_pairs() -> None:
    scores = np.random.default_rng(1).random((5, 40, 3))
    votes = scores.argmax(axis=2)
    pairs = [(i, j) for i in range(5) for j in range(i)]
    expected = np.mean([votes[i] != votes[j] for i, j in pairs], axis=0)
    np.testing.assert_allclose(pairwise_disagreement(scores), expected)
    assert not pairwise_disagreement(scores[:1]).any()


def test_entropy_and_mutual_information_as_scipy_and_scikit_learn(random_case) -> None:
    probabilities, _ = random_case
    stats = pytest.importorskip("scipy.stats")
    np.testing.assert_allclose(entropy(probabilities), stats.entropy(probabilities, axis=1))
    assert entropy(np.eye(4)).tolist() == [0, 0, 0, 0]
    # The counts of member and class, each member as often as the others.
    counts = np.random.default_rng(5).multinomial(1000, probabilities).reshape(4, 50, 7)
    members = counts / 1000
    expected = [
        sklearn_metrics.mutual_info_score(None, None, contingency=counts[:, index])
        for index in range(50)
    ]
    np.testing.assert_allclose(mutual_information(members), expected, atol=1e-12)
    np.testing.assert_allclose(mutual_information(members[[0, 0]]), 0, atol=1e-12)
    certain = np.eye(3)[:, np.newaxis]  # each of another class
    assert mutual_information(certain) == pytest.approx([math.log(3)])


def test_false_positive_rate_as_scikit_learns_curve() -> None:
    draw = np.random.default_rng(2)
    # Few values, so that many are equal.
    inside, outside = draw.integers(0, 30, 333) / 7, draw.integers(5, 40, 200) / 7
    is_inside = np.repeat([1, 0], [333, 200])
    false, true, _ = sklearn_metrics.roc_curve(
        is_inside, -np.append(inside, outside), drop_intermediate=False
    )
    for recall in (0.5, 0.95):
        expected = false[np.argmax(true >= recall)]
        assert false_positive_rate(inside, outside, recall=recall) == pytest.approx(expected)
    assert false_positive_rate(np.arange(20), np.array([18, 18.5, 19, 50])) == 0.25


def test_risk_coverage_by_hand() -> None:
    uncertainty = np.array([0.5, 0.1, 0.3, 0.9])
    correct = np.array([False, True, True, True])
    risks = risk_coverage(uncertainty, correct)
    assert risks.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 4])
    assert area_under_risk_coverage(risks) == pytest.approx((1 / 3 + 1 / 4) / 4)
    assert excess_area_under_risk_coverage(risks) == pytest.approx((1 / 3) / 4)


def test_examples_of_the_same_uncertainty_come_in_random_order() -> None:
    draw = np.random.default_rng(3)
    uncertainty, correct = draw.integers(0, 4, 30), draw.random(30) < 0.7
    drawn = []
    for _ in range(4000):
        order = draw.permutation(30)
        order = order[np.argsort(uncertainty[order], kind="stable")]
        drawn.append(np.cumsum(~correct[order]) / np.arange(1, 31))
    risks = risk_coverage(uncertainty, correct)
    np.testing.assert_allclose(risks, np.mean(drawn, axis=0), atol=0.03)
    assert risks[-1] == pytest.approx(np.mean(~correct))


def test_the_best_order_has_no_excess_area() -> None:
    correct = np.random.default_rng(4).random(101) < 0.6
    best, worst = (risk_coverage(sign * correct, correct) for sign in (-1.0, 1.0))
    assert excess_area_under_risk_coverage(best) == pytest.approx(0)
    assert excess_area_under_risk_coverage(worst) > 0.2


@pytest.mark.parametrize(("right", "examples"), [(50, 100), (0, 20), (20, 20), (3, 4)])
def test_wilsons_interval_is_scipys(right: int, examples: int) -> None:
    top1 = 100 * right / examples
    low, high = wilson_interval(top1, examples)
    stats = pytest.importorskip("scipy.stats")
    scipys = stats.binomtest(right, examples).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((100 * scipys.low, 100 * scipys.high), abs=1e-9)
    assert low <= top1 <= high  # error bars must not be negative


def test_wilsons_interval_by_hand() -> None:
    # z^2 = 3.8415: (0.5 + 0.019207) / 1.038415 -+ 1.96 * sqrt(0.0025 + 0.000096) / 1.038415.
    assert wilson_interval(50.0, 100) == pytest.approx((40.383, 59.617), abs=1e-3)
