"""How the members' logits become one prediction: NumPy only, the single place where it is defined.

The Keras ensemble's `Combine` layer, the runtime and the evaluation all agree with these functions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.registry import Registry

Combination = Callable[[np.ndarray], np.ndarray]

#: Scheme name -> function from logits float32 `[members, n, classes]` to float32 `[n, classes]`.
COMBINATIONS: Registry[Combination] = Registry("scheme")


def softmax(logits: np.ndarray) -> np.ndarray:
    """`exp(z_k) / sum_j exp(z_j)` over the last axis, shifted by the maximum so nothing overflows.

    # Arguments
        logits: floats `[..., classes]`.

    # Returns
        float32 `[..., classes]`, each row sums to 1.
    """
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float32)
    return shifted / shifted.sum(axis=-1, keepdims=True)


def mean_of_logits(logits: np.ndarray) -> np.ndarray:
    """`softmax(mean_i z_i)`, the output of feature fusion (Kim et al. 2022, Fig. 2)."""
    return softmax(logits.mean(axis=0))


def mean_of_softmaxes(logits: np.ndarray) -> np.ndarray:
    """`mean_i softmax(z_i)`: soft voting, also the combination of bagging."""
    return softmax(logits).mean(axis=0)


def share_of_votes(logits: np.ndarray) -> np.ndarray:
    """`mean_i onehot(argmax z_i)`: majority voting; on a tie the lowest class index comes first."""
    votes = logits.argmax(axis=-1)
    return np.eye(logits.shape[-1], dtype=np.float32)[votes].mean(axis=0)


COMBINATIONS.register("fusion", mean_of_logits)
COMBINATIONS.register("nested_fusion", mean_of_logits)
COMBINATIONS.register("sampled_nested_fusion", mean_of_logits)
COMBINATIONS.register("voting", mean_of_softmaxes)
COMBINATIONS.register("hard_voting", share_of_votes)
COMBINATIONS.register("bagging", mean_of_softmaxes)
COMBINATIONS.register("batch_bagging", mean_of_softmaxes)


def combine(logits: np.ndarray, scheme: str) -> np.ndarray:
    """Class probabilities of an ensemble from its members' logits.

    # Arguments
        logits: floats `[members, n, classes]`, at least one member.
        scheme: a name of `COMBINATIONS`.

    # Returns
        float32 `[n, classes]`, rows sum to 1.

    # Raises
        UnknownNameError: for a scheme that isn't known.
        EnsembleError: if `logits` is not of rank 3 or has no members or no classes.
    """
    combination = COMBINATIONS[scheme]
    logits = np.asarray(logits, np.float32)
    if logits.ndim != 3 or 0 in (logits.shape[0], logits.shape[2]):
        raise EnsembleError(
            "`logits` must be [members, n, classes] with at least one member and one class. "
            f"Received: shape {logits.shape}."
        )
    return combination(logits)
