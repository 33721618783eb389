"""The adaptive cascade: members run one by one until the prediction is confident, in NumPy.

Most images need few members. After m members, a temperature calibrates the combined prediction of
the first m. Images whose log margin reaches the threshold for m are finished; the next member runs
on the others only.

`larq_ensemble.runtime.calibration` fits temperatures and thresholds and writes them into the file's
metadata.

# References
    - Guo et al. 2017, [On calibration of modern neural networks](https://arxiv.org/abs/1706.04599).
    - Wang et al. 2022, [Wisdom of committees](https://arxiv.org/abs/2012.01988).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.combination import (
    COMBINATIONS,
    LARGEST,
    combine,
    share_of_votes,
    softmax,
)

# With many members some probabilities are tiny; a higher floor would change them.
_TINY = np.finfo(np.float32).tiny

#: The only stopping rule: the log margin between the two most probable classes.
RULE = "log_margin"


def calibrated(probabilities: np.ndarray, scheme: str, temperature: float) -> np.ndarray:
    r"""Temperature scaling of combined probabilities: \\( \mathrm{softmax}(s / T) \\).

    s = ln p, so for mean and sum of logits this scales the combined logits. For votes, s is the
    share of votes, because most shares are 0. The order of the classes stays.

    # Arguments
        probabilities: floats `[..., classes]`, as `combine` returns them.
        scheme: a name of `COMBINATIONS`.
        temperature: T > 0. Except for votes, T > 1 makes the prediction less confident.

    # Returns
        float32 `[..., classes]`, rows sum to 1.
    """
    return softmax(scores(probabilities, scheme) / np.float32(temperature))


def scores(probabilities: np.ndarray, scheme: str) -> np.ndarray:
    """The scores s that a temperature divides: ln p, or the share of votes."""
    if COMBINATIONS[scheme] is share_of_votes:
        return probabilities
    return np.log(np.maximum(probabilities, _TINY))


def log_margin(probabilities: np.ndarray) -> np.ndarray:
    """`ln p_first - ln p_second` of the two most probable classes; 0 for a single class.

    For combined logits it is their difference, so a device needs no softmax.

    # Arguments
        probabilities: floats `[..., classes]`.

    # Returns
        floats `[...]`, at least 0.
    """
    second = max(0, probabilities.shape[-1] - 2)
    first_two = np.partition(probabilities, second, axis=-1)[..., second:]  # needs no full sort
    logs = np.log(np.maximum(first_two, _TINY))
    return logs[..., -1] - logs[..., 0]


@dataclass(frozen=True)
class Cascade:
    """The stopping rule of an adaptive cascade.

    # Arguments
        thresholds: for m = 1 to M - 1: an image is finished after m members if the log margin of
            their calibrated prediction is at least the threshold; `None`: never.
        rule: `"log_margin"`. It is stored so that old versions refuse files with a new rule.

    # Raises
        EnsembleError: for another rule, or thresholds that are neither numbers nor `None`.
    """

    thresholds: tuple[float | None, ...]
    rule: str = RULE

    def __post_init__(self) -> None:
        if self.rule != RULE:
            raise EnsembleError(
                f"Unknown rule {self.rule!r} of the cascade. Known: {RULE}. Install a newer "
                "larq-ensemble or calibrate the file again."
            )
        if not isinstance(self.thresholds, tuple) or not all(
            value is None
            or (
                isinstance(value, (int, float))
                and not isinstance(value, bool)
                and abs(value) <= LARGEST
            )
            for value in self.thresholds
        ):
            raise EnsembleError(
                "`thresholds` of the cascade must be finite numbers or null. "
                f"Received: {self.thresholds!r}."
            )

    @classmethod
    def from_json(cls, values: Any) -> Cascade:
        """Reads the cascade in a file's metadata.

        # Raises
            EnsembleError: if the values are no cascade.
        """
        if not isinstance(values, Mapping) or not isinstance(values.get("thresholds"), list):
            raise EnsembleError(
                "Ensemble metadata: `cascade` must hold a rule and thresholds. "
                f"Received: {values!r}."
            )
        return cls(tuple(values["thresholds"]), values.get("rule", ""))

    def first(self, members: int) -> Cascade:
        """The cascade of the first `members` members, with the same thresholds."""
        return dataclasses.replace(self, thresholds=self.thresholds[: members - 1])

    def finished(self, margins: np.ndarray, members: int) -> np.ndarray:
        """Which images are finished after `members` members: log margins `[n]` -> bool `[n]`."""
        return stops(self.thresholds[members - 1], margins)


def stops(threshold: float | None, margins: np.ndarray) -> np.ndarray:
    """`margins >= threshold`, bool `[n]`; all false for the threshold `None`."""
    return np.zeros(margins.shape, bool) if threshold is None else margins >= threshold


class AdaptivePrediction(NamedTuple):
    """The predictions of a cascade for n images.

    # Arguments
        probabilities: float32 `[n, classes]`, rows sum to 1.
        members: int `[n]`, the number of members that ran for each image.
    """

    probabilities: np.ndarray
    members: np.ndarray


def run_cascade(
    cascade: Cascade,
    member_logits: Callable[[int, np.ndarray], np.ndarray],
    probabilities_of: Callable[[np.ndarray], np.ndarray],
    *,
    images: int,
    classes: int,
    members: int,
) -> AdaptivePrediction:
    """Runs one member after another, each on the images that are not finished.

    # Arguments
        cascade: the thresholds.
        member_logits: (member, indices `[k]` of images) -> float32 `[k, classes]`.
        probabilities_of: logits `[m, k, classes]` of the first m members -> their calibrated
            prediction `[k, classes]`.
        images, classes: numbers of images and of classes.
        members: the largest number of members to run.
    """
    answer = AdaptivePrediction(np.empty((images, classes), np.float32), np.zeros(images, int))
    waiting = np.arange(images)
    logits: list[np.ndarray] = []
    for count in range(1, members + 1):
        logits.append(member_logits(count - 1, waiting))
        running = probabilities_of(np.stack(logits))
        answer.probabilities[waiting] = running
        answer.members[waiting] = count
        if count == members:
            break
        unfinished = ~cascade.finished(log_margin(running), count)
        waiting, logits = waiting[unfinished], [rows[unfinished] for rows in logits]
        if not len(waiting):
            break
    return answer


def calibrated_prediction(
    logits: np.ndarray,
    scheme: str,
    weights: Sequence[float] | None,
    temperatures: Sequence[float] | None,
) -> np.ndarray:
    """The combined prediction of the first m members, calibrated if there are temperatures.

    # Arguments
        logits: floats `[m, n, classes]`, m > 0.
        scheme, weights: as for `combine`.
        temperatures: for each number of members, from 1 on; `None`: not calibrated.

    # Returns
        float32 `[n, classes]`, rows sum to 1.
    """
    probabilities = combine(logits, scheme, weights)
    if temperatures is None:
        return probabilities
    return calibrated(probabilities, scheme, temperatures[len(logits) - 1])
