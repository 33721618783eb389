"""What gradient boosting, in turn or together, fits members to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from larq_ensemble.ensembles.building import EnsembleView, own_name
from larq_ensemble.keras import keras, tf


def zero_head(network: keras.Model, member: int) -> None:
    """Sets the linear layer of a member's network to zeros, where it is the member's own."""
    head = [layer for layer in network.layers if isinstance(layer, keras.layers.Dense)][-1]
    if head.name.startswith(own_name(member, "")):
        head.set_weights([np.zeros_like(weight) for weight in head.get_weights()])


class PseudoResidualLoss(keras.losses.Loss):
    """Mean squared difference of a member's logits and onehot(y) - softmax(F), over the classes.

    Labels are [n]; what the model gives is [n, 2, classes], the logits and softmax(F).
    """

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        logits, so_far = tf.unstack(y_pred, axis=1)
        return _squared_error(y_true, logits, so_far)


def boosted_accuracy(shrinkage: float) -> Any:
    """The accuracy of F_i = F_{i-1} + shrinkage * f_i, as a Keras metric."""

    def accuracy(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        logits, so_far = tf.unstack(y_pred, axis=1)
        # The logarithm of a softmax is its logits, but for a constant.
        scores = tf.math.log(so_far) + shrinkage * logits
        return keras.metrics.sparse_categorical_accuracy(tf.reshape(y_true, [-1]), scores)

    return accuracy


def soft_boosting(ensemble: keras.Model) -> tuple[keras.Model, dict[str, Any]]:
    """What to train to train all members of gradient boosting together.

    # Arguments
        ensemble: of the scheme `soft_boosting`.

    # Returns
        A model on the layers of the ensemble, image -> the members' logits [n, M, classes], and
        its loss and metrics for `Model.compile`.
    """
    view = EnsembleView(ensemble)
    weights = view.weights or (1.0,) * view.members
    logits = tf.stack(ensemble.outputs[: view.members], axis=1)

    def accuracy(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        scores = tf.tensordot(y_pred, tf.constant(weights, y_pred.dtype), [[1], [0]])
        return keras.metrics.sparse_categorical_accuracy(tf.reshape(y_true, [-1]), scores)

    return keras.Model(ensemble.inputs, logits), {
        "loss": SoftBoostingLoss(weights),
        "metrics": [accuracy],
    }


class SoftBoostingLoss(keras.losses.Loss):
    """The sum over the members of what `PseudoResidualLoss` is for one, see `SoftBoosting`.

    Labels are [n]; what the model gives is the members' logits, [n, M, classes].

    # Arguments
        weights: how much each member counts in the sum of the logits.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self._weights = weights

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        members = tf.unstack(y_pred, axis=1)
        so_far = tf.zeros_like(members[0])
        errors = []
        for logits, weight in zip(members, self._weights):
            errors.append(_squared_error(y_true, logits, tf.nn.softmax(so_far)))
            so_far += weight * logits
        return tf.add_n(errors)


def _squared_error(y_true: tf.Tensor, logits: tf.Tensor, so_far: tf.Tensor) -> tf.Tensor:
    """Of logits [n, classes] against the residual of the probabilities `so_far`; [n]."""
    labels = tf.cast(tf.reshape(y_true, [-1]), tf.int32)
    residual = tf.one_hot(labels, tf.shape(logits)[-1]) - tf.stop_gradient(so_far)
    return tf.reduce_mean(tf.square(logits - residual), axis=-1)
