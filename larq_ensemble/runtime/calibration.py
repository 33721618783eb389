"""Fitting a cascade on held-out images: a temperature and a threshold for each number of members m.

Temperatures minimize the negative log-likelihood of the labels, with a prior that keeps them near 1
if there are few images. A temperature that isn't likelier than 1 in cross-validation is 1.
Thresholds minimize

    mean over images of  loss(m) + price * m,    m = the members that run for the image,

where loss(m) = q(c_M) - q(c_m), q is the calibrated prediction of all M members, and c_m is the
class that the first m predict. So loss(m) is the accuracy that stopping after m members is expected
to lose, according to q. This estimate needs far fewer images than a difference of accuracies,
because q says more about an image than its label. Each price gives one point of the frontier of
accuracy against members. The point that meets the user's limit goes into the file.

Thresholds lose less on the images that they were fitted on than on others. So each fifth of the
images also goes through a cascade that was fitted on the other four, and the limit is lowered until
these lose no more than the user allows. How sure that is, the labels say: the images that these
cascades lose and gain against all members give an upper bound of the loss.

```python
calibration = calibrate("ensemble.tflite", images, labels, mean_members=2)  # held-out images
print(calibration.chosen.mean_members, calibration.held_out_loss, calibration.loss_bound)
```
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from larq_ensemble.errors import EnsembleError, install_command, is_real
from larq_ensemble.files import obstacle, write_bytes
from larq_ensemble.pretrained.catalog import found
from larq_ensemble.runtime import cascade
from larq_ensemble.runtime.cascade import Cascade, log_margin, stops
from larq_ensemble.runtime.combination import combine
from larq_ensemble.runtime.file import check_no_run, read_ensemble, with_metadata
from larq_ensemble.runtime.interpreter import EnsembleInterpreter
from larq_ensemble.runtime.metadata import EnsembleMetadata
from larq_ensemble.runtime.metrics import class_indices, top_k_accuracy

#: Default limit of the loss in accuracy, in percentage points.
ACCURACY_LOSS = 0.2
#: With fewer images `fit` warns.
FEW_IMAGES = 500
#: Probability that the true loss is at most `Calibration.loss_bound`.
CONFIDENCE = 0.95
#: How far above the limit of the loss the bound may be, in percentage points, for images to stop.
_TOLERANCE = 1.0
_FOLDS = 5
_LIMITS = 41  # that are tried, from the user's to 0
_MANY = 25  # images that are lost or gained
_PRICES = np.geomspace(1e-5, 1, 61)  # of a member, in accuracy (0..1)
_TEMPERATURES = (0.01, 100.0)
_PRIOR = 2.0  # nats: ln T has the standard deviation 1/2, as much as a handful of images say
_DIGITS = 4  # of temperatures, thresholds and accuracies in the file


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
        chosen: the point of the frontier that meets the limit, or all members for every image.
        held_out_loss: the expected loss of `chosen` in percentage points on images that it was not
            fitted on, by cross-validation.
        loss_bound: upper bound of the loss of top-1 of `chosen` against all members, in percentage
            points, at the confidence 95 %, from the labels.
        top1: for each number of members, from 1 to M, the accuracy in percent on these images.
    """

    scheme: str
    weights: tuple[float, ...] | None
    temperatures: tuple[float, ...]
    frontier: tuple[OperatingPoint, ...]
    chosen: OperatingPoint
    held_out_loss: float
    loss_bound: float
    top1: tuple[float, ...]

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities `[n, classes]` of the members' logits `[m, n, classes]`."""
        return cascade.calibrated_prediction(logits, self.scheme, self.weights, self.temperatures)

    def score(self, logits: np.ndarray, labels: np.ndarray, point: OperatingPoint) -> Score:
        """The results of a point of the frontier on other images.

        # Arguments
            logits: of all members, `[M, n, classes]`.
            labels: class indices `[n]`.
            point: for example `chosen`.

        # Raises
            EnsembleError: if the labels are no class indices of the logits.
        """
        labels = class_indices(labels, examples=logits.shape[1], classes=logits.shape[2])
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
    backend: str | None = None,
) -> Calibration:
    """Fits temperatures and thresholds of an ensemble file and writes them into its metadata.

    Nothing else in the file changes. The file is replaced atomically. Needs SciPy, which comes with
    the extra `calibrate`.

    # Arguments
        path: the `.tflite` file that `larq-ensemble convert` wrote.
        images: as for `EnsembleInterpreter.predict`. They must not be training images, on which
            the ensemble is overconfident. Give some thousands: with fewer than 500 `calibrate`
            warns, and the fewer there are, the less it changes.
        labels: class indices `[n]`.
        accuracy_loss: the largest expected loss of top-1 against all members, in percentage
            points, on images that are not fitted on. The cascade with the fewest members on average
            within it is chosen. If the labels can't show that the loss is at most a point larger
            (`Calibration.loss_bound`), no image stops early, and a warning says so. The default is
            0.2.
        mean_members: instead of `accuracy_loss`: the largest mean number of members. The cascade
            with the least expected loss within it is chosen.
        threads, backend: of the interpreter.

    # Raises
        EnsembleError: as `EnsembleInterpreter` and `fit`, or if SciPy is missing, or if the file
            changed meanwhile or can't be written.
    """
    check_can_calibrate(path)
    interpreter = EnsembleInterpreter(path, threads=threads, backend=backend)
    metadata = interpreter.metadata
    labels = class_indices(labels, examples=len(images), classes=metadata.classes)
    check_limits(accuracy_loss, mean_members, metadata.members)
    calibration = fit(
        interpreter.predict_logits(images),
        labels,
        metadata.scheme,
        metadata.weights,
        accuracy_loss=accuracy_loss,
        mean_members=mean_members,
    )
    write(path, metadata, calibration)
    return calibration


def write(
    path: str | os.PathLike[str], measured: EnsembleMetadata, calibration: Calibration
) -> None:
    """Writes temperatures and thresholds into the metadata of a file.

    # Arguments
        path: the file.
        measured: the metadata of the file that the logits are from.
        calibration: what was fitted to them.

    # Raises
        EnsembleError: if the file is another one by now, or can't be written.
    """
    file = read_ensemble(path)
    if file.metadata != measured:  # they hold a checksum of the whole file
        raise EnsembleError(
            f"{str(path)!r} was changed while it was measured: nothing was written. Calibrate it "
            "again."
        )
    found = dataclasses.replace(
        measured,
        temperatures=calibration.temperatures,
        cascade=calibration.chosen.cascade,
        top1=calibration.top1,
    )
    write_bytes(path, with_metadata(file.data, found))


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
        EnsembleError: if the logits are not finite, the labels don't fit them, or a limit is out of
            range.
    """
    total = len(logits)
    _, images, classes = np.shape(logits)
    labels = class_indices(labels, examples=images, classes=classes)
    check_limits(accuracy_loss, mean_members, total)
    if not images:
        raise EnsembleError("There are no images to calibrate on: give at least one.")
    if not np.isfinite(logits).all():
        raise EnsembleError(
            "Some logits are NaN or infinite: train the ensemble again, or convert it again."
        )
    combined = [combine(logits[:count], scheme, weights) for count in range(1, total + 1)]
    temperatures = tuple(fit_temperature(rows, labels, scheme) for rows in combined)
    predictions = np.stack(
        [cascade.calibrated(rows, scheme, t) for rows, t in zip(combined, temperatures)]
    )
    frontier = fit_frontier(predictions)
    allowed = ACCURACY_LOSS if accuracy_loss is None else accuracy_loss
    folds = fit_folds(log_margin(predictions[:-1]), expected_losses(predictions))
    limit = allowed if mean_members is not None else held_out_limit(folds, allowed)
    chosen = choose(frontier, limit, mean_members)
    held_out_loss, bound = _held_out(folds, predictions, labels, limit, mean_members)
    if mean_members is None and bound > allowed + _TOLERANCE:
        warnings.warn(
            f"{images:,} images can't show that the loss stays near the {allowed:g} points of "
            f"`accuracy_loss` (it may be {bound:.1f}), so no image stops early: give more images "
            "or a larger `accuracy_loss`.",
            stacklevel=2,
        )
        chosen = OperatingPoint(Cascade((None,) * (total - 1)), float(total), 0.0)
    elif images < FEW_IMAGES:
        warnings.warn(
            f"{images:,} images are few to calibrate on: give {FEW_IMAGES} or more.", stacklevel=2
        )
    if not any(threshold is not None for threshold in chosen.cascade.thresholds):
        held_out_loss = bound = 0.0  # it is all members
    weights = None if weights is None else tuple(weights)
    top1 = tuple(round(top_k_accuracy(rows, labels, k=1), _DIGITS) for rows in predictions)
    return Calibration(
        scheme, weights, temperatures, tuple(frontier), chosen, held_out_loss, bound, top1
    )


def check_can_calibrate(path: str | os.PathLike[str]) -> None:
    """# Raises
    EnsembleError: before the work, if SciPy is missing, or `path` is no file that can be written.
    """
    _check_scipy()
    if found(path) is not None:
        raise EnsembleError(
            f"{os.fspath(path)!r} comes with the package, calibrated: calibrate a copy of it, that "
            "`larq-ensemble pretrained` writes."
        )
    check_no_run(path)
    if not os.path.exists(path):
        raise EnsembleError(
            f"There is no file {os.fspath(path)!r}: give one that `larq-ensemble convert` wrote."
        )
    if reason := obstacle(path):
        raise EnsembleError(
            f"{os.fspath(path)!r} can't be written ({reason}): calibrate a copy of it elsewhere."
        )


def _check_scipy() -> None:
    if importlib.util.find_spec("scipy") is None:
        raise EnsembleError(f"Calibration needs SciPy: install it: {install_command('calibrate')}.")


def check_limits(accuracy_loss: Any, mean_members: Any, total: int) -> None:
    """Raises `EnsembleError` for limits that `fit` refuses for `total` members."""
    if accuracy_loss is not None and mean_members is not None:
        raise EnsembleError("Give `accuracy_loss` or `mean_members`, not both.")
    if accuracy_loss is not None and not (is_real(accuracy_loss) and accuracy_loss >= 0):
        raise EnsembleError(f"`accuracy_loss` must be 0 or more. Received: {accuracy_loss!r}.")
    if mean_members is not None and not (is_real(mean_members) and 1 <= mean_members <= total):
        raise EnsembleError(
            f"`mean_members` must be from 1 to {total}, the members of the file. "
            f"Received: {mean_members!r}."
        )


def choose(
    frontier: Sequence[OperatingPoint], allowed: float, mean_members: float | None
) -> OperatingPoint:
    """The point of a frontier with the least loss for `mean_members`, or with the fewest members.

    # Arguments
        frontier: as `fit_frontier` returns it.
        allowed: the largest expected loss on the images fitted on, in percentage points.
        mean_members: the largest mean number of members, instead of `allowed`; `None`: no limit.
    """
    if mean_members is not None:
        affordable = [point for point in frontier if point.mean_members <= mean_members]
        return min(affordable, key=lambda point: point.expected_loss)
    good = [point for point in frontier if point.expected_loss <= allowed]
    return min(good, key=lambda point: point.mean_members)


def _folds(images: int) -> np.ndarray:
    """The fold of each image, int `[n]`; drawn, because images may be in order of their classes."""
    return np.random.default_rng(0).permutation(images) % _FOLDS


class Fold(NamedTuple):
    """A fifth of the images, and the cascades that were fitted on the others.

    # Arguments
        here: which images are in it, bool `[n]`.
        frontier: fitted on the others.
        losses: the expected loss of each point of the frontier on the images here, in points.
    """

    here: np.ndarray
    frontier: list[OperatingPoint]
    losses: list[float]


def fit_folds(confidences: np.ndarray, losses: np.ndarray) -> list[Fold]:
    """The folds of the cross-validation, empty for a single member or image.

    # Arguments
        confidences, losses: as for `fit_thresholds`.
    """
    total, images = losses.shape
    folds = _folds(images)
    if total == 1 or images == 1:
        return []
    found = []
    for here in (folds == fold for fold in np.unique(folds)):
        frontier = fit_thresholds(confidences[:, ~here], losses[:, ~here])
        points = [
            _point(point.cascade.thresholds, confidences[:, here], losses[:, here])
            for point in frontier
        ]
        found.append(Fold(here, frontier, [point.expected_loss for point in points]))
    return found


def held_out_limit(folds: Sequence[Fold], allowed: float) -> float:
    """The largest limit on the images fitted on with which others are to lose `allowed` at most.

    Both in points. If none does, the limit is 0.
    """
    if not folds:
        return allowed
    limits = allowed * np.linspace(1, 0, _LIMITS)
    kept = (limit for limit in limits if _held_out_loss(folds, limit, None) <= allowed)
    return float(next(kept, 0.0))


def _held_out_loss(folds: Sequence[Fold], limit: float, mean_members: float | None) -> float:
    """What the images of each fold are expected to lose by the cascade of the others, in points."""
    loss = 0.0
    for fold in folds:
        chosen = fold.frontier.index(choose(fold.frontier, limit, mean_members))
        loss += float(fold.here.mean()) * fold.losses[chosen]
    return loss


def _held_out(
    folds: Sequence[Fold],
    predictions: np.ndarray,
    labels: np.ndarray,
    limit: float,
    mean_members: float | None,
) -> tuple[float, float]:
    """The expected loss of top-1 on other images and its upper bound by the labels, in points.

    Of n images b are lost (only all members are right) and c gained (only the cascade is). If there
    are at least 25 of them, the bound is that of Agresti and Min for (b - c) / n, which has nearly
    its nominal coverage then; else the exact one of b / n (Clopper and Pearson 1934).

    # References
        - Agresti and Min 2005, [Simple improved confidence intervals for comparing matched
          proportions](https://doi.org/10.1002/sim.1781).

    # Arguments
        folds: of the same images.
        predictions: calibrated, `[M, n, classes]`.
        labels: `[n]`.
        limit, mean_members: the limits.
    """
    total, images, _ = predictions.shape
    if not folds:  # a single member loses nothing; a single image shows nothing
        return (0.0, 0.0) if total == 1 else (100.0, 100.0)
    right = predictions.argmax(axis=-1) == labels
    confidences = log_margin(predictions[:-1])
    difference = np.zeros(images, int)
    for here, frontier, _ in folds:
        chosen = choose(frontier, limit, mean_members)
        last = members_run(chosen.cascade.thresholds, confidences[:, here]) - 1
        stopped = np.take_along_axis(right[:, here], last[np.newaxis], axis=0)[0]
        difference[here] = right[-1, here].astype(int) - stopped
    lost, gained = int((difference > 0).sum()), int((difference < 0).sum())
    expected = _held_out_loss(folds, limit, mean_members)
    return expected, 100 * _bound_of_difference(lost, gained, images)


def _bound_of_difference(lost: int, gained: int, images: int) -> float:
    """The bound of `_held_out` as a share (0..1)."""
    from scipy.special import betaincinv, ndtri

    if lost + gained < _MANY:
        return 1.0 if lost == images else float(betaincinv(lost + 1, images - lost, CONFIDENCE))
    total, difference = images + 2, lost - gained
    deviation = np.sqrt(lost + gained + 1 - difference**2 / total)
    return max(0.0, float(difference + ndtri(CONFIDENCE) * deviation) / total)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray, scheme: str) -> float:
    """The likeliest temperature from 0.01 to 100, or 1 if that isn't better in cross-validation.

    It has the smallest negative log-likelihood of the labels, summed, plus 2 (ln T)^2. So T stays
    near 1 with few images, also if all predictions are right.
    The likelihood is log-concave in 1 / T, so Brent's method finds its only maximum over ln T. In
    cross-validation, T is fitted on four fifths of the images and compared with 1 on the others:
    it has to be better by more than a standard error.

    Needs SciPy, which comes with the extra `calibrate`.

    # Arguments
        probabilities: floats `[n, classes]`, as `combine` gives them.
        labels: class indices `[n]`.
        scheme: a name of `COMBINATIONS`.

    # Raises
        EnsembleError: if SciPy is missing.
    """
    _check_scipy()
    # In float64: in float32 the likelihood is so flat at its maximum that T is off by 1e-3.
    scores = cascade.scores(np.asarray(probabilities, np.float64), scheme)
    gains, folds = np.zeros(len(labels)), _folds(len(labels))
    for fold in np.unique(folds):
        rest, here = folds != fold, folds == fold
        if rest.any():
            temperature = _likeliest(scores[rest], labels[rest], tolerance=1e-2)
            before, after = (_nats(scores[here], labels[here], t) for t in (1.0, temperature))
            gains[here] = before - after
    is_better = gains.sum() > np.sqrt(np.square(gains).sum())
    return round(_likeliest(scores, labels), _DIGITS) if is_better else 1.0


def _nats(scores: np.ndarray, labels: np.ndarray, temperature: float) -> np.ndarray:
    """The negative log-likelihood of each label, `[n]`."""
    scaled = scores / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    return np.log(np.exp(scaled).sum(axis=-1)) - scaled[np.arange(len(labels)), labels]


def _likeliest(scores: np.ndarray, labels: np.ndarray, tolerance: float = 1e-6) -> float:
    """The temperature with the least negative log-likelihood and prior, up to its tolerance."""
    from scipy.optimize import minimize_scalar

    def cost(log_temperature: float) -> float:
        return (
            float(_nats(scores, labels, np.exp(log_temperature)).sum())
            + _PRIOR * log_temperature**2
        )

    found = minimize_scalar(
        cost, bounds=np.log(_TEMPERATURES), method="bounded", options={"xatol": tolerance}
    )
    return float(np.exp(found.x))


def fit_frontier(predictions: np.ndarray) -> list[OperatingPoint]:
    """The best cascade for each price of a member.

    # Arguments
        predictions: calibrated probabilities of the first m members, for each m:
            `[M, n, classes]`.

    # Returns
        The Pareto frontier, from all members for every image to one.
    """
    return fit_thresholds(log_margin(predictions[:-1]), expected_losses(predictions))


def expected_losses(predictions: np.ndarray) -> np.ndarray:
    """The accuracy (0..1) that stopping after m members is expected to lose: `q(c_M) - q(c_m)`.

    # Arguments
        predictions: as for `fit_frontier`.

    # Returns
        floats `[M, n]`; the last row is 0.
    """
    chosen, final = predictions.argmax(axis=-1), predictions[-1]
    return final.max(axis=-1) - final[np.arange(final.shape[0]), chosen]


def fit_thresholds(confidences: np.ndarray, losses: np.ndarray) -> list[OperatingPoint]:
    """The best thresholds of any confidence, as `fit_frontier` finds those of the log margin.

    # Arguments
        confidences: floats `[M - 1, n]`, at least 0, after 1, 2, ... M - 1 members.
        losses: of stopping after m members, in accuracy (0..1), `[M, n]`.
    """
    total = len(losses)
    points = [_point([None] * (total - 1), confidences, losses)]
    for price in _PRICES:
        # A higher price stops a little earlier, so start from the thresholds of the last one.
        start = points[-1].cascade.thresholds
        points.extend(
            _point(thresholds, confidences, losses)
            for thresholds in _descend(start, confidences, losses, price)
        )
    points.append(_point([0.0] * (total - 1), confidences, losses))
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


def members_run(thresholds: Sequence[float | None], confidences: np.ndarray) -> np.ndarray:
    """How many members run for each image, int `[n]`.

    # Arguments
        thresholds: for 1, 2, ... M - 1 members.
        confidences: floats `[M - 1, n]`.
    """
    return _runs(thresholds, confidences).sum(axis=0)


def _runs(thresholds: Sequence[float | None], margins: np.ndarray) -> np.ndarray:
    """For which images each member runs, bool `[M, n]`: the first runs for all."""
    unfinished = [~stops(t, row)[np.newaxis] for t, row in zip(thresholds, margins)]
    first = np.ones((1, margins.shape[1]), bool)
    return np.logical_and.accumulate(np.concatenate([first, *unfinished]))


def _point(
    thresholds: Sequence[float | None], margins: np.ndarray, loss: np.ndarray
) -> OperatingPoint:
    members = members_run(thresholds, margins)
    lost = loss[members - 1, np.arange(loss.shape[1])]
    return OperatingPoint(
        Cascade(tuple(thresholds)), float(members.mean()), 100 * float(lost.mean())
    )
