"""The adaptive cascade: members one by one, until the prediction is sure. NumPy only.

Most images need few members. After each member the running prediction of those so far is
calibrated by the temperature of that many members; an image on which it is sure enough is done,
and only the others are given to the next member.

What is fitted here by `larq_ensemble.runtime.calibration` stands in the file's metadata.

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

# Logits of many members, summed, leave little to the last classes: a higher floor would cut there.
_TINY = np.finfo(np.float32).tiny

#: The one rule there is: how far the first class is ahead of the second.
RULE = "log_margin"


def calibrated(probabilities: np.ndarray, scheme: str, temperature: float) -> np.ndarray:
    r"""Combined probabilities at another temperature: \\( \mathrm{softmax}(s / T) \\).

    s = ln p, so where logits are averaged or summed this is temperature scaling of the combined
    logits. Where votes are counted s is the share of votes, since most shares are 0. The order of
    the classes stays.

    # Arguments
        probabilities: floats `[..., classes]`, as `combine` gives them.
        scheme: a name of `COMBINATIONS`.
        temperature: T > 0; above 1 makes less sure (for votes, of any size).

    # Returns
        float32 `[..., classes]`, rows sum to 1.
    """
    return softmax(scores(probabilities, scheme) / np.float32(temperature))


def scores(probabilities: np.ndarray, scheme: str) -> np.ndarray:
    """What a temperature divides: ln p, or the share where votes are counted."""
    if COMBINATIONS[scheme] is share_of_votes:
        return probabilities
    return np.log(np.maximum(probabilities, _TINY))


def log_margin(probabilities: np.ndarray) -> np.ndarray:
    """`ln p_first - ln p_second` of the two likeliest classes; 0 where there is one class.

    Where logits are combined it is their difference, so a device needs no softmax.

    # Arguments
        probabilities: floats `[..., classes]`.

    # Returns
        floats `[...]`, at least 0.
    """
    first_two = np.log(np.maximum(np.sort(probabilities, axis=-1)[..., -2:], _TINY))
    return first_two[..., -1] - first_two[..., 0]


@dataclass(frozen=True)
class Cascade:
    """When the running prediction is sure enough.

    # Arguments
        thresholds: for m = 1 to M - 1 members: stop if the log margin of their calibrated
            prediction is at least this; `None`: never stop there.
        rule: `"log_margin"`; named so that a later rule is not taken for this one.

    # Raises
        EnsembleError: for another rule, or thresholds that aren't numbers or `None`.
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
        """The cascade in a file's metadata.

        # Raises
            EnsembleError: if it is none.
        """
        if not isinstance(values, Mapping) or not isinstance(values.get("thresholds"), list):
            raise EnsembleError(
                f"Ensemble metadata: `cascade` must hold a rule and thresholds. Got: {values!r}."
            )
        return cls(tuple(values["thresholds"]), values.get("rule", ""))

    def first(self, members: int) -> Cascade:
        """The cascade of so many members: it stops where it did, at the latest at the last one."""
        return dataclasses.replace(self, thresholds=self.thresholds[: members - 1])

    def is_sure(self, margins: np.ndarray, members: int) -> np.ndarray:
        """Which of the images are done after so many members, by their log margins `[n]`."""
        return stops(self.thresholds[members - 1], margins)


def stops(threshold: float | None, margins: np.ndarray) -> np.ndarray:
    """Which of the images `[n]` are at a threshold or above it; `None`: none is."""
    return np.zeros(margins.shape, bool) if threshold is None else margins >= threshold


class AdaptivePrediction(NamedTuple):
    """What a cascade says of n images.

    # Arguments
        probabilities: float32 `[n, classes]`, rows sum to 1.
        members: int `[n]`, how many members each image took.
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
    """Runs member after member on the images that are not done.

    # Arguments
        cascade: when to stop.
        member_logits: (member, indices `[k]` of images) -> float32 `[k, classes]`.
        probabilities_of: logits `[m, k, classes]` of the first m members -> their calibrated
            prediction `[k, classes]`.
        images, classes: shape of the answer.
        members: at most so many; the last one stops for good.
    """
    answer = AdaptivePrediction(np.empty((images, classes), np.float32), np.zeros(images, int))
    undecided = np.arange(images)
    logits: list[np.ndarray] = []
    for count in range(1, members + 1):
        logits.append(member_logits(count - 1, undecided))
        running = probabilities_of(np.stack(logits))
        answer.probabilities[undecided] = running
        answer.members[undecided] = count
        if count == members:
            break
        going_on = ~cascade.is_sure(log_margin(running), count)
        undecided, logits = undecided[going_on], [rows[going_on] for rows in logits]
        if not len(undecided):
            break
    return answer


def calibrated_prediction(
    logits: np.ndarray,
    scheme: str,
    weights: Sequence[float] | None,
    temperatures: Sequence[float] | None,
) -> np.ndarray:
    """The prediction of m members, calibrated if there are temperatures.

    # Arguments
        logits: floats `[m, n, classes]`, m > 0.
        scheme, weights: as for `combine`.
        temperatures: one for each number of members, or `None`.

    # Returns
        float32 `[n, classes]`, rows sum to 1.
    """
    probabilities = combine(logits, scheme, weights)
    if temperatures is None:
        return probabilities
    return calibrated(probabilities, scheme, temperatures[len(logits) - 1])
