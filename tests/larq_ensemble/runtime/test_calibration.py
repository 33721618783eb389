"""Temperatures and thresholds against exhaustive searches, and on images not fitted on."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.calibration import (
    _bound_of_difference,
    calibrate,
    fit,
    fit_frontier,
    fit_temperature,
    members_run,
)
from larq_ensemble.runtime.cascade import log_margin
from larq_ensemble.runtime.combination import combine, softmax
from larq_ensemble.runtime.metrics import negative_log_likelihood, top_k_accuracy

M, N, CLASSES = 3, 3000, 10


def noisy_ensemble(
    n: int, seed: int, noise: float = 2.0, members: int = M
) -> tuple[np.ndarray, np.ndarray]:
    """Logits `[members, n, classes]` and labels: what members see in common, and their own noise.

    The labels are drawn from the softmax of the common part, so T = 1 would calibrate that.
    """
    draw = np.random.default_rng(seed)
    common = draw.normal(0, 2, (n, CLASSES))
    labels = (softmax(common).cumsum(axis=1) > draw.random((n, 1))).argmax(axis=1)
    return (common + draw.normal(0, noise, (members, n, CLASSES))).astype(np.float32), labels


@pytest.fixture(scope="module")
def held_out() -> tuple[np.ndarray, np.ndarray]:
    return noisy_ensemble(N, 0)


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(true: float) -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 3, (20000, 5))
    labels = (softmax(logits / true).cumsum(axis=1) > draw.random((20000, 1))).argmax(axis=1)
    found = fit_temperature(softmax(logits), labels, "fusion")
    assert found == pytest.approx(true, rel=0.05)


@pytest.mark.parametrize("scheme", ["fusion", "voting", "boosting", "hard_voting"])
def test_the_temperature_has_the_least_negative_log_likelihood(
    held_out: tuple[np.ndarray, np.ndarray], scheme: str
) -> None:
    logits, labels = held_out
    calibration = fit(logits, labels, scheme)
    assert len(calibration.temperatures) == M

    def cost(temperatures: tuple[float, ...]) -> float:
        import dataclasses

        other = dataclasses.replace(calibration, temperatures=temperatures)
        p = other.predict(logits)[np.arange(N), labels]
        return float(-np.log(p.astype(np.float64)).mean())

    best = cost(calibration.temperatures)
    for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2):
        others = tuple(factor * t for t in calibration.temperatures)
        assert cost(others) >= best - 1e-6


@pytest.mark.parametrize("scheme", ["fusion", "voting", "hard_voting"])
def test_at_the_likeliest_temperature_the_scores_have_their_expected_mean(
    held_out: tuple[np.ndarray, np.ndarray], scheme: str
) -> None:
    """The derivative by 1 / T: sum(s_label) - sum(sum_k p_k s_k), and 4 T ln T of the prior."""
    logits, labels = held_out
    predicted = combine(logits, scheme).astype(np.float64)
    scores = predicted if scheme == "hard_voting" else np.log(predicted)

    def derivative(temperature: float) -> float:
        p = np.exp(scores / temperature)
        p /= p.sum(axis=1, keepdims=True)
        of_labels = float((scores[np.arange(N), labels] - (p * scores).sum(axis=1)).sum())
        return of_labels + 4 * temperature * np.log(temperature)

    found = fit_temperature(predicted, labels, scheme)
    assert derivative(found * (1 - 3e-4)) < 0 < derivative(found * (1 + 3e-4))


def test_labels_that_are_all_predicted_do_not_freeze_the_ensemble() -> None:
    """Without a mistake every lower temperature is likelier; 0 would be sure of anything."""
    labels = np.arange(200) % CLASSES
    probabilities = softmax(5 * np.eye(CLASSES)[labels])
    for few, least in ((200, 0.4), (20, 0.6), (3, 0.8), (1, 1)):
        temperature = fit_temperature(probabilities[:few], labels[:few], "fusion")
        assert least <= temperature <= 1


@pytest.mark.parametrize("true", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("images", [10, 40, 120])
def test_few_images_make_no_prediction_much_worse(images: int, true: float) -> None:
    """Ten times: T is fitted to few images and compared with T = 1 on many."""
    draw = np.random.default_rng(images)
    worse = []
    for _ in range(10):
        logits = draw.normal(0, 3, (images + 2000, 5))
        labels = (softmax(logits / true).cumsum(1) > draw.random((images + 2000, 1))).argmax(1)
        p = softmax(logits)
        found = fit_temperature(p[:images], labels[:images], "fusion")
        after, before = (
            negative_log_likelihood(softmax(logits[images:] / t), labels[images:])
            for t in (found, 1.0)
        )
        worse.append(after - before)
    assert max(worse) < 0.1
    assert np.mean(worse) < 0.02


@pytest.mark.parametrize(
    ("lost", "gained", "images"), [(0, 0, 120), (0, 0, 5000), (3, 2, 400), (60, 40, 3000)]
)
def test_a_loss_above_the_bound_would_rarely_have_shown_so_little(
    lost: int, gained: int, images: int
) -> None:
    """With the bound as the true loss, so few are lost in 5 % of samples, by simulation."""
    bound = _bound_of_difference(lost, gained, images)
    assert (lost - gained) / images < bound < 0.1
    draw = np.random.default_rng(0)
    share_gained = gained / images
    counts = draw.multinomial(
        images, [bound + share_gained, share_gained, 1 - bound - 2 * share_gained], 20000
    )
    seen = (counts[:, 0] - counts[:, 1] <= lost - gained).mean()
    assert 0.01 < seen < 0.08
    assert _bound_of_difference(7, 0, 7) == 1


def test_few_images_promise_no_loss_that_they_cannot_show() -> None:
    """Of 100 images all are right. A cascade lost 6.2 points against a promised 0.2."""
    logits, labels = noisy_ensemble(20100, 3)
    easy = np.flatnonzero((logits.argmax(-1) == labels).all(axis=0))[:100]
    with pytest.warns(UserWarning, match=r"100 images can't show .* 0.2 points of `accuracy_loss`"):
        careful = fit(logits[:, easy], labels[easy], "fusion")
    assert careful.chosen.cascade.thresholds == (None, None)
    assert careful.loss_bound == 0
    with pytest.warns(UserWarning, match="100 images are few"):
        asked = fit(logits[:, easy], labels[easy], "fusion", mean_members=1.5)
    assert 2.5 < asked.loss_bound < 10


def test_the_bound_holds_on_other_images() -> None:
    """The loss on many other images is at most the bound, for nearly all sets of images."""
    other, other_labels = noisy_ensemble(5000, 99)
    held = 0
    for seed in range(10):
        found = fit(*noisy_ensemble(600, seed), "fusion", mean_members=2)
        full = found.score_fixed(other, other_labels, M).top1
        held += full - found.score(other, other_labels, found.chosen).top1 <= found.loss_bound
    assert held >= 9


def test_other_images_lose_what_is_allowed_and_not_more() -> None:
    """By the probabilities that drew the labels. On the images fitted on the limit says too much:
    seven thresholds fit their noise."""
    members, others, allowed = 8, 8000, 0.3
    logits, _ = noisy_ensemble(others, 99, members=members)
    truth = softmax(np.random.default_rng(99).normal(0, 2, (others, CLASSES)))
    image = np.arange(others)
    kept, broken = [], []
    for seed in range(2):
        found = fit(*noisy_ensemble(1500, seed, members=members), "fusion", accuracy_loss=allowed)
        assert found.chosen.expected_loss <= found.held_out_loss <= allowed
        naive = min(
            (point for point in found.frontier if point.expected_loss <= allowed),
            key=lambda point: point.mean_members,
        )
        running = np.stack([found.predict(logits[:m]) for m in range(1, members + 1)])
        right = truth[image, running.argmax(axis=-1)]
        for point, losses in ((found.chosen, kept), (naive, broken)):
            last = members_run(point.cascade.thresholds, log_margin(running[:-1])) - 1
            losses.append(100 * float((right[-1] - right[last, image]).mean()))
    assert np.mean(kept) <= allowed < np.mean(broken), (kept, broken)


def test_scipy_is_not_imported_before_a_temperature_is_fitted() -> None:
    code = "import sys, larq_ensemble.runtime.calibration; print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_missing_scipy_is_said_before_the_work(
    tmp_path, monkeypatch: pytest.MonkeyPatch, held_out: tuple[np.ndarray, np.ndarray]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnsembleError, match=r"needs SciPy: .*\[calibrate\]"):
        calibrate(tmp_path / "no.tflite", np.zeros((1, 8, 8, 1)), np.zeros(1, int))
    with pytest.raises(EnsembleError, match="needs SciPy"):
        fit(*held_out, "fusion")


def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path) -> None:
    with pytest.raises(EnsembleError, match=r"^'.*' can't be written \(it is a directory\).* copy"):
        calibrate(tmp_path, np.zeros((1, 8, 8, 1)), np.zeros(1, int))


def test_a_sum_of_logits_has_a_higher_temperature_than_their_mean(
    held_out: tuple[np.ndarray, np.ndarray],
) -> None:
    """The sum of m logits is m times their mean: so is its temperature."""
    logits, labels = held_out
    mean, total = (fit(logits, labels, scheme) for scheme in ("fusion", "boosting"))
    ratios = np.divide(total.temperatures, mean.temperatures)
    np.testing.assert_allclose(ratios, [1, 2, 3], rtol=1e-2)


def brute_force(predictions: np.ndarray, price: float) -> float:
    """The least cost of any pair of thresholds, by exhaustive search."""
    n = predictions.shape[1]
    chosen, final = predictions.argmax(axis=-1), predictions[-1]
    loss = final.max(axis=-1) - final[np.arange(n), chosen]
    margins = log_margin(predictions[:-1])
    candidates = [[*np.unique(row), np.inf] for row in margins]
    least = np.inf
    for first, second in itertools.product(*candidates):
        members = np.where(margins[0] >= first, 1, np.where(margins[1] >= second, 2, 3))
        cost = loss[members - 1, np.arange(n)] + price * members
        least = min(least, float(cost.mean()))
    return least


def test_the_frontier_against_every_pair_of_thresholds() -> None:
    logits, labels = noisy_ensemble(60, 1)
    calibration = fit(logits, labels, "fusion")
    predictions = np.stack([calibration.predict(logits[:m]) for m in (1, 2, 3)])
    for price in (0.003, 0.01, 0.03, 0.1):
        ours = min(
            point.expected_loss / 100 + price * point.mean_members
            for point in fit_frontier(predictions)
        )
        least = brute_force(predictions, price)
        # Coordinate descent may end at a cascade that no single threshold improves.
        assert least - 1e-6 <= ours <= least + 0.15 * price


def test_the_loss_falls_along_the_frontier(held_out: tuple[np.ndarray, np.ndarray]) -> None:
    calibration = fit(*held_out, "fusion")
    members = [point.mean_members for point in calibration.frontier]
    losses = [point.expected_loss for point in calibration.frontier]
    assert members == sorted(members, reverse=True)
    assert losses == sorted(losses)
    assert losses[0] == 0
    assert members[-1] == 1
    assert len(members) > 20


def test_the_chosen_point_meets_the_limit(held_out: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = held_out
    for wish in (1, 2.2):
        chosen = fit(logits, labels, "fusion", mean_members=wish).chosen
        assert chosen.mean_members <= wish
        assert chosen.mean_members >= wish - 0.2 or chosen.expected_loss == 0
    for wish in (0.0, 1.0):
        assert fit(logits, labels, "fusion", accuracy_loss=wish).chosen.expected_loss <= wish
    default, same = fit(logits, labels, "fusion"), fit(logits, labels, "fusion", accuracy_loss=0.2)
    assert default.chosen == same.chosen
    right = [logits[:m].mean(axis=0).argmax(axis=-1) == labels for m in range(1, M + 1)]
    assert default.top1 == pytest.approx([100 * each.mean() for each in right], abs=1e-4)
    assert 0 < default.chosen.expected_loss <= 0.2 < default.loss_bound < 1.2


def test_on_other_images_a_cascade_beats_a_fixed_number_of_members(
    held_out: tuple[np.ndarray, np.ndarray],
) -> None:
    calibration = fit(*held_out, "fusion", mean_members=2)
    logits, labels = noisy_ensemble(20000, 2)
    adaptive = calibration.score(logits, labels, calibration.chosen)
    two, three = (calibration.score_fixed(logits, labels, m) for m in (2, 3))
    assert adaptive.mean_members <= 2.05
    assert two.top1 < adaptive.top1 <= three.top1 + 0.2
    # What it expected to lose, it loses.
    assert three.top1 - adaptive.top1 == pytest.approx(calibration.chosen.expected_loss, abs=0.5)
    assert sum(adaptive.stopped) == pytest.approx(1)
    assert np.dot(adaptive.stopped, [1, 2, 3]) == pytest.approx(adaptive.mean_members)
    assert two.stopped == (0, 1, 0)
    expected = top_k_accuracy(logits.mean(axis=0), labels, k=1)
    assert three.top1 == pytest.approx(expected)


def test_running_a_point_of_the_frontier_gives_its_numbers(
    held_out: tuple[np.ndarray, np.ndarray],
) -> None:
    calibration = fit(*held_out, "voting")
    for point in calibration.frontier[::7]:
        assert calibration.score(*held_out, point).mean_members == pytest.approx(point.mean_members)


def test_one_member_needs_no_thresholds(held_out: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = held_out
    calibration = fit(logits[:1], labels, "fusion")
    assert calibration.chosen.cascade.thresholds == ()
    assert calibration.score(logits[:1], labels, calibration.chosen).stopped == (1.0,)


def test_votes_stop_when_members_agree(held_out: tuple[np.ndarray, np.ndarray]) -> None:
    """One member has all the votes, so its margin says nothing about its confidence."""
    calibration = fit(*held_out, "hard_voting", accuracy_loss=0)
    first, second = calibration.chosen.cascade.thresholds
    assert first is None
    assert second is not None
    assert calibration.chosen.mean_members < 3


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (np.zeros(3, int), {}, "one class index per image, for 4 images.*Received: int64.*3"),
        (np.zeros(4), {}, "must be integers.*Received: float64"),
        (np.full(4, 10), {}, "from 0 to 9.*Received: 10 to 10"),
        (np.full(4, -1), {}, "from 0 to 9"),
        (np.zeros(4, int), {"accuracy_loss": 1, "mean_members": 2}, "not both"),
        (np.zeros(4, int), {"accuracy_loss": -0.1}, "`accuracy_loss` must be 0 or more"),
        (np.zeros(4, int), {"mean_members": 0.5}, "`mean_members` must be from 1 to 3"),
        (np.zeros(4, int), {"mean_members": 3.5}, "`mean_members` must be from 1 to 3"),
        (np.zeros(4, int), {"mean_members": float("nan")}, "`mean_members` must be from 1 to 3"),
        (np.zeros(4, int), {"accuracy_loss": float("nan")}, "`accuracy_loss` must be 0 or more"),
        (np.zeros(4, int), {"accuracy_loss": "1"}, "`accuracy_loss` must be 0 or more"),
        (np.eye(10)[:4], {}, "not one-hot"),
    ],
)
def test_bad_limits_are_refused(labels: np.ndarray, options: dict[str, Any], message: str) -> None:
    logits = np.zeros((M, 4, CLASSES), np.float32)
    with pytest.raises(EnsembleError, match=message):
        fit(logits, labels, "fusion", **options)


def test_no_images_are_refused() -> None:
    with pytest.raises(EnsembleError, match="at least one"):
        fit(np.zeros((M, 0, CLASSES), np.float32), np.zeros(0, int), "fusion")
