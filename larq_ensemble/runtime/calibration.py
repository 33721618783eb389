"""Fitting a cascade on held-out images: a temperature and a threshold for each number of members m.

Temperatures minimize the negative log-likelihood of the labels. Thresholds minimize

    mean over images of  loss(m) + price * m,    m = the members that run for the image,

where loss(m) = q(c_M) - q(c_m), q is the calibrated prediction of all M members, and c_m is the
class that the first m predict. So loss(m) is the accuracy that stopping after m members is expected
to lose, according to q. This estimate needs far fewer images than a difference of accuracies,
because q says more about an image than its label. Each price gives one point of the frontier of
accuracy against members. The point that meets the user's limit goes into the file.

```python
calibration = calibrate("ensemble.tflite", images, labels, mean_members=2)  # held-out images
print(calibration.chosen.mean_members, calibration.chosen.expected_loss)
```
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import check_output, write_bytes
from larq_ensemble.runtime import cascade
from larq_ensemble.runtime.cascade import Cascade, log_margin, stops
from larq_ensemble.runtime.combination import combine
from larq_ensemble.runtime.file import read_bytes, with_metadata
from larq_ensemble.runtime.interpreter import EnsembleInterpreter
from larq_ensemble.runtime.metrics import top_k_accuracy

#: Default limit of the loss in accuracy, in percentage points.
ACCURACY_LOSS = 0.2
_PRICES = np.geomspace(1e-5, 1, 61)  # of a member, in accuracy (0..1)
_TEMPERATURES = (0.01, 100.0)
_PRIOR = 1e-6  # nats
_DIGITS = 4  # of temperatures and thresholds in the file


@dataclass(frozen=True)
class OperatingPoint:
    """A cascade and its results on the images it was fitted on.

    # Arguments
        cascade: the thresholds.
        mean_members: the mean number of members that run for an image.
        expected_loss: the loss of top-1 against all members in percentage points, as expected by
            the calibrated prediction of all members; 0 or more.
    """

    cascade: Cascade
    mean_members: float
    expected_loss: float


@dataclass(frozen=True)
class Score:
    """The results of a cascade, or of a fixed number of members, on labelled images.

    # Arguments
        mean_members: the mean number of members that run for an image.
        top1: accuracy in percent.
        stopped: the share (0..1) of images for which 1, 2, ... M members ran.
    """

    mean_members: float
    top1: float
    stopped: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """The fitted temperatures and cascades.

    # Arguments
        scheme, weights: how the members are combined.
        temperatures: for each number of members, from 1 to M.
        frontier: points with ever fewer members, from all members for every image to one.
        chosen: the point of the frontier that meets the limit.
    """

    scheme: str
    weights: tuple[float, ...] | None
    temperatures: tuple[float, ...]
    frontier: tuple[OperatingPoint, ...]
    chosen: OperatingPoint

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities `[n, classes]` of the members' logits `[m, n, classes]`."""
        return cascade.calibrated_prediction(logits, self.scheme, self.weights, self.temperatures)

    def score(self, logits: np.ndarray, labels: np.ndarray, point: OperatingPoint) -> Score:
        """The results of a point of the frontier on other images.

        # Arguments
            logits: of all members, `[M, n, classes]`.
            labels: class indices `[n]`.
            point: for example `chosen`.
        """
        answers = cascade.run_cascade(
            point.cascade,
            lambda member, which: logits[member, which],
            self.predict,
            images=len(labels),
            classes=logits.shape[-1],
            members=len(logits),
        )
        stopped = np.bincount(answers.members, minlength=len(logits) + 1)[1:] / len(labels)
        return Score(
            float(answers.members.mean()),
            top_k_accuracy(answers.probabilities, labels, k=1),
            tuple(stopped.tolist()),
        )

    def score_fixed(self, logits: np.ndarray, labels: np.ndarray, members: int) -> Score:
        """The results of the first `members` members, all of them for every image."""
        stopped = np.eye(len(logits))[members - 1]
        top1 = top_k_accuracy(self.predict(logits[:members]), labels, k=1)
        return Score(float(members), top1, tuple(stopped.tolist()))


def calibrate(
    path: str | os.PathLike[str],
    images: np.ndarray,
    labels: np.ndarray,
    *,
    accuracy_loss: float | None = None,
    mean_members: float | None = None,
    threads: int = 1,
) -> Calibration:
    """Fits temperatures and thresholds of an ensemble file and writes them into its metadata.

    Nothing else in the file changes. The file is replaced atomically.
    Needs SciPy: `pip install 'larq-ensemble[calibrate]'`.

    # Arguments
        path: the `.tflite` file that `larq-ensemble convert` wrote.
        images: as for `EnsembleInterpreter.predict`. They must not be training images, on which
            the ensemble is overconfident.
        labels: class indices `[n]`.
        accuracy_loss: the largest expected loss of top-1 against all members, in percentage
            points. The cascade with the fewest members on average within it is chosen. The default
            is 0.2.
        mean_members: instead of `accuracy_loss`: the largest mean number of members. The cascade
            with the least expected loss within it is chosen.
        threads: of the interpreter.

    # Raises
        EnsembleError: as `EnsembleInterpreter` and `fit`, or if the file can't be written.
    """
    check_output(path)
    interpreter = EnsembleInterpreter(path, threads=threads)
    metadata = interpreter.metadata
    calibration = fit(
        interpreter.predict_logits(images),
        labels,
        metadata.scheme,
        metadata.weights,
        accuracy_loss=accuracy_loss,
        mean_members=mean_members,
    )
    found = dataclasses.replace(
        metadata, temperatures=calibration.temperatures, cascade=calibration.chosen.cascade
    )
    data = with_metadata(read_bytes(path), found)
    write_bytes(path, data)
    return calibration


def fit(
    logits: np.ndarray,
    labels: np.ndarray,
    scheme: str,
    weights: Sequence[float] | None = None,
    *,
    accuracy_loss: float | None = None,
    mean_members: float | None = None,
) -> Calibration:
    """Fits temperatures and thresholds to the members' logits.

    # Arguments
        logits: floats `[M, n, classes]`, n > 0.
        labels: class indices `[n]`.
        scheme, weights: as for `larq_ensemble.runtime.combination.combine`.
        accuracy_loss, mean_members: as for `calibrate`.

    # Raises
        EnsembleError: if the labels don't fit the logits, or a limit is out of range.
    """
    labels, total = np.asarray(labels), len(logits)
    images, classes = combine(logits, scheme, weights).shape
    if labels.shape != (images,) or labels.dtype.kind not in "iu" or not images:
        raise EnsembleError(
            f"`labels` must be one class index per image, for {images} images and at least one. "
            f"Received: {labels.dtype} of shape {list(labels.shape)}."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise EnsembleError(
            f"`labels` must be from 0 to {classes - 1}, the classes of the file. "
            f"Received: {labels.min()} to {labels.max()}."
        )
    if accuracy_loss is not None and mean_members is not None:
        raise EnsembleError("Give `accuracy_loss` or `mean_members`, not both.")
    if accuracy_loss is not None and not accuracy_loss >= 0:
        raise EnsembleError(f"`accuracy_loss` must be 0 or more. Received: {accuracy_loss!r}.")
    if mean_members is not None and not 1 <= mean_members <= total:
        raise EnsembleError(
            f"`mean_members` must be from 1 to {total}, the members of the file. "
            f"Received: {mean_members!r}."
        )
    combined = [combine(logits[:count], scheme, weights) for count in range(1, total + 1)]
    temperatures = tuple(fit_temperature(rows, labels, scheme) for rows in combined)
    predictions = np.stack(
        [cascade.calibrated(rows, scheme, t) for rows, t in zip(combined, temperatures)]
    )
    frontier = fit_frontier(predictions)
    if mean_members is not None:
        affordable = [point for point in frontier if point.mean_members <= mean_members]
        chosen = min(affordable, key=lambda point: point.expected_loss)
    else:
        allowed = ACCURACY_LOSS if accuracy_loss is None else accuracy_loss
        good = [point for point in frontier if point.expected_loss <= allowed]
        chosen = min(good, key=lambda point: point.mean_members)
    weights = None if weights is None else tuple(weights)
    return Calibration(scheme, weights, temperatures, tuple(frontier), chosen)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray, scheme: str) -> float:
    """The temperature from 0.01 to 100 with the smallest negative log-likelihood.

    The negative log-likelihood is convex in 1 / T, so it has one minimum, which Brent's method
    finds over ln T. A term of 1e-6 (ln T)^2 keeps T away from 0 if all predictions are right.

    Needs SciPy: `pip install 'larq-ensemble[calibrate]'`.

    # Arguments
        probabilities: floats `[n, classes]`, as `combine` gives them.
        labels: class indices `[n]`.
        scheme: a name of `COMBINATIONS`.
    """

    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    # In float64: in float32 the likelihood is so flat at its maximum that T is off by 1e-3.
    scores = cascade.scores(np.asarray(probabilities, np.float64), scheme)
    of_label = scores[np.arange(len(labels)), labels]

    def cost(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        likelihoods = inverse * of_label - logsumexp(inverse * scores, axis=-1)
        return _PRIOR * log_temperature**2 - float(likelihoods.mean())

    found = minimize_scalar(
        cost, bounds=np.log(_TEMPERATURES), method="bounded", options={"xatol": 1e-6}
    )
    return round(float(np.exp(found.x)), _DIGITS)


def fit_frontier(predictions: np.ndarray) -> list[OperatingPoint]:
    """The best cascade for each price of a member.

    # Arguments
        predictions: calibrated probabilities of the first m members, for each m:
            `[M, n, classes]`.

    # Returns
        The Pareto frontier, from all members for every image to one.
    """
    total, images, _ = predictions.shape
    chosen, final = predictions.argmax(axis=-1), predictions[-1]
    loss = final.max(axis=-1) - final[np.arange(images), chosen]
    margins = log_margin(predictions[:-1])
    points = [_point([None] * (total - 1), margins, loss)]
    for price in _PRICES:
        # A higher price stops a little earlier, so start from the thresholds of the last one.
        start = points[-1].cascade.thresholds
        points.extend(
            _point(thresholds, margins, loss)
            for thresholds in _descend(start, margins, loss, price)
        )
    points.append(_point([0.0] * (total - 1), margins, loss))
    points.sort(key=lambda point: (point.expected_loss, point.mean_members))
    best: list[OperatingPoint] = []
    for point in points:
        if not best or point.mean_members < best[-1].mean_members:
            best.append(point)
    return best


def _descend(
    start: Sequence[float | None], margins: np.ndarray, loss: np.ndarray, price: float
) -> Iterator[list[float | None]]:
    """Coordinate descent: sets one threshold after another to its exact optimum.

    # Arguments
        start: M - 1 thresholds.
        margins: log margins after m members, `[M - 1, n]`.
        loss: of stopping after m members, `[M, n]`.
        price: of a member, in units of the loss.

    # Returns
        The thresholds after each step, until the cost no longer falls.
    """
    total, images = loss.shape
    cost = loss + price * np.arange(1, total + 1)[:, np.newaxis]
    thresholds, least = list(start), np.inf
    while True:
        runs = _runs(thresholds, margins)
        now = float(cost[runs.sum(axis=0) - 1, np.arange(images)].sum())
        # Thresholds are rounded, so they could move forever without a gain.
        if now >= least:
            return
        least = now
        cost_of_continuing = cost[-1]
        for m in reversed(range(total - 1)):
            here = runs[m]
            thresholds[m] = _best_threshold(margins[m, here], (cost[m] - cost_of_continuing)[here])
            yield list(thresholds)
            stopped = stops(thresholds[m], margins[m])
            cost_of_continuing = np.where(stopped, cost[m], cost_of_continuing)


def _best_threshold(margins: np.ndarray, gains: np.ndarray) -> float | None:
    """The threshold t with the least sum of `gains` over `margins >= t`; `None`: the empty sum."""
    if not len(margins):
        return None
    order = np.argsort(-margins, kind="stable")
    margins, sums = margins[order], np.cumsum(gains[order])
    # Images of the same margin stop together, so only the last of them can be the end.
    ends = np.flatnonzero(np.append(margins[:-1] != margins[1:], True))
    last = int(ends[sums[ends].argmin()])
    if sums[last] >= 0:
        return None
    if last + 1 == len(margins):
        return 0.0
    return round(float(margins[last] + margins[last + 1]) / 2, _DIGITS)


def _runs(thresholds: Sequence[float | None], margins: np.ndarray) -> np.ndarray:
    """For which images each member runs, bool `[M, n]`: the first runs for all."""
    unfinished = [~stops(t, row)[np.newaxis] for t, row in zip(thresholds, margins)]
    first = np.ones((1, margins.shape[1]), bool)
    return np.logical_and.accumulate(np.concatenate([first, *unfinished]))


def _point(
    thresholds: Sequence[float | None], margins: np.ndarray, loss: np.ndarray
) -> OperatingPoint:
    members = _runs(thresholds, margins).sum(axis=0)
    lost = loss[members - 1, np.arange(loss.shape[1])]
    return OperatingPoint(
        Cascade(tuple(thresholds)), float(members.mean()), 100 * float(lost.mean())
    )
