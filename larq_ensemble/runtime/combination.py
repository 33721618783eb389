"""Combining the members' logits into one prediction, in NumPy.

The runtime and the evaluation use these functions. Tests compare the schemes of Keras ensembles
with them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.registry import Registry

#: The largest float. JSON may hold larger integers, with which NumPy can't compute.
LARGEST = sys.float_info.max

Combination = Callable[[np.ndarray, np.ndarray], np.ndarray]

#: Scheme name -> function from logits float32 `[members, n, classes]` and weights float64
#: `[members]` to probabilities `[n, classes]`.
COMBINATIONS: Registry[Combination] = Registry("scheme")


def softmax(logits: np.ndarray) -> np.ndarray:
    """`exp(z_k) / sum_j exp(z_j)` over the last axis; the maximum is subtracted first.

    # Arguments
        logits: floats `[..., classes]`.

    # Returns
        float32 `[..., classes]`, each row sums to 1.
    """
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float32)
    return shifted / shifted.sum(axis=-1, keepdims=True)


def mean_of_logits(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`softmax(mean_i z_i)`: feature fusion (Kim et al. 2022, Fig. 2)."""
    return softmax(_mean(logits, weights))


def sum_of_logits(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`softmax(sum_i w_i z_i)`: gradient boosting; the weights are its shrinkage."""
    return softmax(np.tensordot(weights, logits, 1))


def mean_of_softmaxes(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`mean_i softmax(z_i)`: soft voting and bagging."""
    return _mean(softmax(logits), weights)


def share_of_votes(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`mean_i onehot(argmax z_i)`: majority voting; of tied classes the lowest index wins."""
    votes = logits.argmax(axis=-1)
    return _mean(np.eye(logits.shape[-1], dtype=np.float32)[votes], weights)


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`sum_i w_i v_i / sum_i w_i`."""
    # Dividing last keeps equal votes of equal weights equal.
    return np.tensordot(weights, values, 1) / weights.sum()


COMBINATIONS.register("fusion", mean_of_logits)
COMBINATIONS.register("nested_fusion", mean_of_logits)
COMBINATIONS.register("sampled_nested_fusion", mean_of_logits)
for _name in (
    "voting",
    "bagging",
    "batch_bagging",
    "snapshot",
    "fast_geometric",
    "adversarial",
    "adaboost",
    "stochastic_rounding",
):
    COMBINATIONS.register(_name, mean_of_softmaxes)
COMBINATIONS.register("hard_voting", share_of_votes)
COMBINATIONS.register("boosting", sum_of_logits)
COMBINATIONS.register("soft_boosting", sum_of_logits)


def combine(logits: np.ndarray, scheme: str, weights: Sequence[float] | None = None) -> np.ndarray:
    """The class probabilities of an ensemble, from its members' logits.

    # Arguments
        logits: floats `[members, n, classes]`, at least one member.
        scheme: a name of `COMBINATIONS`.
        weights: a positive weight for each member; `None`: all 1. Only the first m are used for m
            members, so the weights of all M may be given.

    # Returns
        float32 `[n, classes]`, rows sum to 1.

    # Raises
        UnknownNameError: for an unknown scheme.
        EnsembleError: if `logits` is not of rank 3 or has no members or no classes, or if there
            are fewer weights than members.
    """
    combination = COMBINATIONS[scheme]
    logits = np.asarray(logits, np.float32)
    if logits.ndim != 3 or 0 in (logits.shape[0], logits.shape[2]):
        raise EnsembleError(
            "`logits` must be [members, n, classes] with at least one member and one class. "
            f"Received: shape {logits.shape}."
        )
    if weights is None:
        weights = [1.0] * len(logits)
    elif len(weights) < len(logits):
        raise EnsembleError(
            f"`weights` must have a value for each of the {len(logits)} members. "
            f"Received: {len(weights)}."
        )
    return combination(logits, np.array(weights[: len(logits)], np.float64)).astype(np.float32)


def are_weights(values: object, members: int) -> bool:
    """Whether `values` is a tuple of one positive, finite number per member."""
    return (
        isinstance(values, tuple)
        and len(values) == members
        and all(isinstance(value, (int, float)) and 0 < value <= LARGEST for value in values)
    )
