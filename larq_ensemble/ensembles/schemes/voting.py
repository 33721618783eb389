"""Voting: independent members."""

from __future__ import annotations

from collections.abc import Sequence

from larq_ensemble.ensembles.schemes.base import Scheme, weighted_mean
from larq_ensemble.keras import tf


class Voting(Scheme):
    """Independent members, soft vote: the mean of their softmaxes."""

    name = "voting"


class HardVoting(Scheme):
    """Independent members, majority vote; ties go to the class with the lower index."""

    name = "hard_voting"

    def combine(
        self, logits: Sequence[tf.Tensor], weights: Sequence[float] | None = None
    ) -> tf.Tensor:
        stacked = tf.stack(logits)
        votes = tf.one_hot(tf.argmax(stacked, axis=-1), tf.shape(stacked)[-1], dtype=stacked.dtype)
        return weighted_mean(votes, weights)
