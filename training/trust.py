"""Whether the probabilities of the first m members can be trusted, for each m.

- `calibration`: is a class of the probability 0.8 right in 80 of 100 cases, after a temperature?
- `conformal`: do sets of classes hold the right one as often as promised, how large are they?
- `selective`: how accurate are the answers if the uncertain ones are left out?
- `out_of_distribution`: does it show that an image is of none of the classes?
- `shift`: what is left of accuracy and calibration on corrupted images?

All take the logits of the members, so a network runs once for all m. Metrics are those of
`larq_ensemble.runtime.metrics` and of scikit-learn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from larq_ensemble.data.corruptions import corrupt
from larq_ensemble.data.datasets import Split
from larq_ensemble.progress import tracked
from larq_ensemble.runtime import metrics
from larq_ensemble.runtime.calibration import fit_temperature
from larq_ensemble.runtime.cascade import calibrated, log_margin
from larq_ensemble.runtime.combination import combine, softmax
from larq_ensemble.runtime.conformal import SCORES, conformal_rank, fit_conformal
from larq_ensemble.training.subject import Subject, metrics_by_members

#: Probabilities that sets of classes miss the right one.
ALPHAS = (0.1, 0.05)
#: Percent of the images that get an answer.
COVERAGES = (100, 95, 90, 80, 50)
_CURVE = range(5, 101, 5)
#: Metrics of probabilities before and after calibration.
_OF_PROBABILITIES = {
    "nll": metrics.negative_log_likelihood,
    "ece": metrics.expected_calibration_error,
    "adaptive_ece": metrics.adaptive_calibration_error,
}

#: Logits `[M, n, classes]` and labels `[n]`.
Answers = tuple[np.ndarray, np.ndarray]


def uncertainties(probabilities: np.ndarray, logits: np.ndarray) -> dict[str, np.ndarray]:
    """How uncertain a prediction is, by name, each `[n]`: the larger, the less certain.

    - `max_probability`: 1 - the highest probability;
    - `margin`: the log margin between the two likeliest classes, negative;
    - `entropy` of the prediction;
    - `disagreement`: the share of pairs of members that differ;
    - `mutual_information` of the members' own softmaxes. The last two need two members.

    # Arguments
        probabilities: of the ensemble, `[n, classes]`.
        logits: of its members, `[m, n, classes]`.

    # References
        - Hendrycks and Gimpel 2017, [A baseline](https://arxiv.org/abs/1610.02136), for the first.
    """
    of_prediction = {
        "max_probability": 1 - probabilities.max(axis=1),
        "margin": -log_margin(probabilities),
        "entropy": metrics.entropy(probabilities),
    }
    if len(logits) == 1:
        return of_prediction
    return of_prediction | {
        "disagreement": metrics.pairwise_disagreement(logits),
        "mutual_information": metrics.mutual_information(softmax(logits)),
    }


def calibration(
    subject: Subject, fitted_on: Answers, test: Answers, counts: Iterable[int]
) -> list[dict[str, Any]]:
    """Fits a temperature for each m, see `larq_ensemble.runtime.calibration.fit_temperature`.

    # Arguments
        subject: how its members are combined.
        fitted_on: images that were not trained on.
        test: others.
        counts: the numbers of members m.

    # Returns
        For each m the temperature, and on the test images NLL, ECE and adaptive ECE as trained
        and, in keys that end in `_calibrated`, calibrated; `ece_by_chance` is the ECE that perfect
        calibration would have on as many images.
    """
    rows = []
    for m in counts:
        before, after = (
            combine(logits[:m], subject.scheme, subject.weights) for logits, _ in (fitted_on, test)
        )
        temperature = fit_temperature(before, fitted_on[1], subject.scheme)
        scaled = calibrated(after, subject.scheme, temperature)
        rows.append(
            {
                "members": m,
                "temperature": temperature,
                **{name: metric(after, test[1]) for name, metric in _OF_PROBABILITIES.items()},
                **_calibrated_metrics(scaled, test[1]),
                "ece_by_chance": metrics.calibration_error_by_chance(scaled),
            }
        )
    return rows


def _calibrated_metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return {
        f"{name}_calibrated": metric(probabilities, labels)
        for name, metric in _OF_PROBABILITIES.items()
    }


def conformal(
    subject: Subject, fitted_on: Answers, test: Answers, counts: Iterable[int]
) -> list[dict[str, Any]]:
    """Fits sets of classes for each m, see `larq_ensemble.runtime.conformal`.

    The probabilities are those that the network gives, not those of `calibration`, which saw the
    same images: so the promise is exact. Not quite so of a calibrated `.tflite` file, whose own
    temperatures were fitted on the validation images, too; they are few numbers on many images.

    # Arguments
        subject, fitted_on, test, counts: as for `calibration`.

    # Returns
        For each m, alpha and method: the threshold, on the test images the share of sets that hold
        the class (`coverage`) and the `mean_size`, and `expected_coverage`, the range in which the
        coverage of as many images lies with a probability of 95 % (Vovk 2012), or above it where
        many scores are equal.
    """
    from scipy.stats import betabinom

    rows = []
    for m in counts:
        before, after = (subject.probabilities(logits[:m]) for logits, _ in (fitted_on, test))
        images, fitted = len(test[1]), len(fitted_on[1])
        for alpha in ALPHAS:
            rank = conformal_rank(fitted, alpha)
            low, high = (
                betabinom.interval(0.95, images, rank, fitted + 1 - rank)
                if rank <= fitted
                else (images, images)  # too few to fit on: the sets are all classes
            )
            for method in SCORES:
                rule = fit_conformal(before, fitted_on[1], alpha=alpha, method=method)
                sets = rule.sets(after)
                rows.append(
                    {
                        "members": m,
                        "alpha": alpha,
                        "method": method,
                        "threshold": rule.threshold,
                        "coverage": float(sets[np.arange(images), test[1]].mean()),
                        "expected_coverage": [low / images, high / images],
                        "mean_size": float(sets.sum(axis=1).mean()),
                    }
                )
    return rows


def selective(subject: Subject, test: Answers, counts: Iterable[int]) -> list[dict[str, Any]]:
    """Accuracy where the network answers only if it is certain enough.

    # Arguments
        subject, test, counts: as for `calibration`.

    # Returns
        For each m and each of `uncertainties`: `aurc`, `e_aurc`, the accuracy in percent at each of
        `COVERAGES`, and `risks`, the share of errors at a coverage of 5, 10, ... 100 %.
    """
    logits, labels = test
    rows = []
    for m in counts:
        probabilities = subject.probabilities(logits[:m])
        correct = probabilities.argmax(axis=1) == labels
        for name, uncertainty in uncertainties(probabilities, logits[:m]).items():
            curve = metrics.risk_coverage(uncertainty, correct)
            risks = {str(each): float(curve[_answered(each, len(curve)) - 1]) for each in _CURVE}
            rows.append(
                {
                    "members": m,
                    "uncertainty": name,
                    "aurc": metrics.area_under_risk_coverage(curve),
                    "e_aurc": metrics.excess_area_under_risk_coverage(curve),
                    "top1_at": {str(each): 100 * (1 - risks[str(each)]) for each in COVERAGES},
                    "risks": risks,
                }
            )
    return rows


def _answered(percent: int, images: int) -> int:
    """The least number of images that is such a share of all."""
    return -(-percent * images // 100)


def out_of_distribution(
    subject: Subject, inside: np.ndarray, outside: np.ndarray, counts: Iterable[int]
) -> list[dict[str, Any]]:
    """Out-of-distribution detection: whether the uncertainty tells other images from one's own.

    # Arguments
        subject, counts: as for `calibration`.
        inside: logits of test images (in distribution), `[M, n, classes]`.
        outside: logits of other images (out of distribution), `[M, k, classes]`.

    # Returns
        For each m and each of `uncertainties`: AUROC, AUPR (average precision, the other images
        being the positive ones) and FPR95, see
        `larq_ensemble.runtime.metrics.false_positive_rate`. By chance they would be 0.5,
        k / (n + k) and 0.95.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    is_ood = np.repeat([False, True], [inside.shape[1], outside.shape[1]])
    rows = []
    for m in counts:
        own, other = (
            uncertainties(subject.probabilities(logits[:m]), logits[:m])
            for logits in (inside, outside)
        )
        for name in own:
            both = np.concatenate([own[name], other[name]])
            rows.append(
                {
                    "members": m,
                    "uncertainty": name,
                    "auroc": float(roc_auc_score(is_ood, both)),
                    "aupr": float(average_precision_score(is_ood, both)),
                    "fpr95": metrics.false_positive_rate(own[name], other[name]),
                }
            )
    return rows


def noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Images of noise, uint8, uniform from 0 to 255 and independent for each value.

    # Arguments
        shape: `(n, height, width, channels)`.
        seed: of the noise.
    """
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def shift(
    subject: Subject,
    data: Split,
    counts: Sequence[int],
    *,
    kinds: Sequence[str],
    severities: Sequence[int],
    seed: int = 0,
    temperatures: Mapping[int, float] | None = None,
) -> dict[str, Any]:
    """Metrics on corrupted images, see `larq_ensemble.data.corruptions`.

    # Arguments
        subject: the network.
        data: the images.
        counts: the numbers of members m.
        kinds, severities: what is done to them.
        seed: of what is drawn.
        temperatures: by m, fitted on images that are not corrupted; `None`: none.

    # Returns
        `"rows"`: for each kind and severity the metrics for each m, those with temperatures in keys
        that end in `_calibrated`; `"by_severity"`: their means over the kinds; `"mean"`: over all.
    """
    rows = []
    pairs = [(kind, severity) for kind in kinds for severity in severities]
    for kind, severity in tracked(pairs, "evaluating under shift", unit="corruption"):
        changed = Split(corrupt(data.images, kind, severity, seed), data.labels)
        logits = subject.logits(changed)
        by_members = metrics_by_members(subject, logits, data.labels, counts)
        for row, m in zip(by_members, counts):
            if temperatures is not None:
                combined = combine(logits[:m], subject.scheme, subject.weights)
                scaled = calibrated(combined, subject.scheme, temperatures[m])
                row |= _calibrated_metrics(scaled, data.labels)
        rows.append({"kind": kind, "severity": severity, "by_members": by_members})
    return {
        "kinds": list(kinds),
        "severities": list(severities),
        "seed": seed,
        "rows": rows,
        "by_severity": [
            {
                "severity": severity,
                "by_members": _means([row for row in rows if row["severity"] == severity]),
            }
            for severity in severities
        ],
        "mean": _means(rows),
    }


def _means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The mean of each metric over some rows, for each m."""
    return [
        {name: float(np.mean([row[name] for row in of_m])) for name in of_m[0]}
        | {"members": of_m[0]["members"]}
        for of_m in zip(*(row["by_members"] for row in rows))
    ]
