"""Fitting what a cascade needs on held-out images: a temperature and a threshold for each m.

Temperatures minimize the negative log-likelihood of the labels. Thresholds minimize

    mean over images of  loss(m) + price * m,    m = the members that the cascade takes,

where loss(m) = q(c_M) - q(c_m): q is the calibrated prediction of all M members, c_m the class
that the first m choose. By q, that is the chance of being right that is lost by stopping early.
It takes far fewer images to estimate than a difference of accuracies does, because an image says
more by its q than by its one label. Each price gives a point on the frontier of accuracy
against members; the one that meets the wish is written into the file.

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
from larq_ensemble.files import replacing
from larq_ensemble.runtime import cascade
from larq_ensemble.runtime.cascade import Cascade, log_margin, stops
from larq_ensemble.runtime.combination import combine
from larq_ensemble.runtime.file import read_bytes, with_metadata
from larq_ensemble.runtime.interpreter import EnsembleInterpreter
from larq_ensemble.runtime.metrics import top_k_accuracy

#: Loss in accuracy, in points, that is accepted where nothing else is asked for.
ACCURACY_LOSS = 0.2
_PRICES = np.geomspace(1e-5, 1, 61)  # accuracy (0..1) a member
_TEMPERATURES = (0.01, 100.0)
_PRIOR = 1e-6  # nats
_DIGITS = 4  # of what is written into the file


@dataclass(frozen=True)
class OperatingPoint:
    """A cascade and what it did on the images it was fitted on.

    # Arguments
        cascade: its thresholds.
        mean_members: how many members an image takes, on average.
        expected_loss: points of top-1 lost against all members, by the calibrated prediction of
            all; 0 or more.
    """

    cascade: Cascade
    mean_members: float
    expected_loss: float


@dataclass(frozen=True)
class Score:
    """What a cascade, or a fixed number of members, does on labelled images.

    # Arguments
        mean_members: how many members an image takes, on average.
        top1: accuracy in percent.
        stopped: share (0..1) of the images that took 1, 2, ... M members.
    """

    mean_members: float
    top1: float
    stopped: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """What was fitted.

    # Arguments
        scheme, weights: how the members are combined.
        temperatures: one for each number of members, M of them.
        frontier: from all members always to one always, each point with fewer members.
        chosen: the point of the frontier that meets the wish.
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
        """What a point of the frontier does on other images.

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
        """What the first so many members do, always all of them."""
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

    Everything else in the file stays as it was. The file is replaced at once or not at all.
    Needs SciPy: `pip install 'larq-ensemble[calibrate]'`.

    # Arguments
        path: the `.tflite` that `larq-ensemble convert` wrote.
        images: as for `EnsembleInterpreter.predict`, none of them trained on: on those that were,
            the ensemble is surer than it is right.
        labels: class indices `[n]`.
        accuracy_loss: stop as early as loses no more than so many points of top-1 against all
            members; 0.2 if `mean_members` isn't given either.
        mean_members: lose as little as an average of so many members allows.
        threads: of the interpreter.

    # Raises
        EnsembleError: as `EnsembleInterpreter` and `fit`, or if the file can't be written.
    """
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
    with replacing(path) as temporary:
        temporary.write_bytes(data)
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
        EnsembleError: if the labels don't fit the logits, or the wish can't be.
    """
    labels, total = np.asarray(labels), len(logits)
    images, classes = combine(logits, scheme, weights).shape
    if labels.shape != (images,) or labels.dtype.kind not in "iu" or not images:
        raise EnsembleError(
            f"`labels` must be one class index an image, for {images} images and at least one. "
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
    """The temperature from 0.01 to 100 with the least negative log-likelihood.

    The negative log-likelihood is convex in 1 / T, so it has one minimum, which Brent's method
    finds over ln T. A term of 1e-6 (ln T)^2 keeps T from 0 where all labels are predicted right.

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
    """The best cascade for each of a range of prices of a member.

    # Arguments
        predictions: calibrated probabilities of the first m members, `[M, n, classes]`.

    # Returns
        From all members always to one always, without points that another one beats.
    """
    total, images, _ = predictions.shape
    chosen, final = predictions.argmax(axis=-1), predictions[-1]
    loss = final.max(axis=-1) - final[np.arange(images), chosen]
    margins = log_margin(predictions[:-1])
    points = [_point([None] * (total - 1), margins, loss)]
    for price in _PRICES:
        # From the last point on: a higher price stops a little earlier.
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
    """Coordinate descent: each threshold in turn at its best, exactly, until nothing is gained.

    # Arguments
        start: thresholds, M - 1 of them.
        margins: log margins `[M - 1, n]`.
        loss: of stopping after each number of members, `[M, n]`.
        price: of a member, in units of the loss.

    # Returns
        The thresholds after each step.
    """
    total, images = loss.shape
    cost = loss + price * np.arange(1, total + 1)[:, np.newaxis]
    thresholds, least = list(start), np.inf
    while True:
        arriving = _arriving(thresholds, margins)
        now = float(cost[arriving.sum(axis=0) - 1, np.arange(images)].sum())
        # Rounded thresholds may move for ever without a gain.
        if now >= least:
            return
        least = now
        cost_of_going_on = cost[-1]
        for m in reversed(range(total - 1)):
            here = arriving[m]
            thresholds[m] = _best_threshold(margins[m, here], (cost[m] - cost_of_going_on)[here])
            yield list(thresholds)
            cost_of_going_on = np.where(stops(thresholds[m], margins[m]), cost[m], cost_of_going_on)


def _best_threshold(margins: np.ndarray, gains: np.ndarray) -> float | None:
    """The threshold at and above which the sum of `gains` is least; `None`: above all of them."""
    if not len(margins):
        return None
    order = np.argsort(-margins, kind="stable")
    margins, sums = margins[order], np.cumsum(gains[order])
    # Images of the same margin stop together.
    ends = np.flatnonzero(np.append(margins[:-1] != margins[1:], True))
    last = int(ends[sums[ends].argmin()])
    if sums[last] >= 0:
        return None
    if last + 1 == len(margins):
        return 0.0
    return round(float(margins[last] + margins[last + 1]) / 2, _DIGITS)


def _arriving(thresholds: Sequence[float | None], margins: np.ndarray) -> np.ndarray:
    """Which images need member m + 1, bool `[M, n]`: all need the first."""
    going_on = [~stops(t, row)[np.newaxis] for t, row in zip(thresholds, margins)]
    all_of_them = np.ones((1, margins.shape[1]), bool)
    return np.logical_and.accumulate(np.concatenate([all_of_them, *going_on]))


def _point(
    thresholds: Sequence[float | None], margins: np.ndarray, loss: np.ndarray
) -> OperatingPoint:
    members = _arriving(thresholds, margins).sum(axis=0)
    lost = loss[members - 1, np.arange(loss.shape[1])]
    return OperatingPoint(
        Cascade(tuple(thresholds)), float(members.mean()), 100 * float(lost.mean())
    )
