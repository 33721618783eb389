"""Gradient boosting: each member fits the residual of the members before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from larq_ensemble.ensembles.labels import class_numbers, distributions
from larq_ensemble.ensembles.names import member_output
from larq_ensemble.ensembles.schemes.base import Scheme, Stage
from larq_ensemble.keras import keras, tf

_ON_THE_SAME_IMAGES = "each member fits the residual of the members before it on the same images"


class Boosting(Scheme):
    r"""Gradient boosting, one member after the other.

    \\[ F_i(x) = F_{i-1}(x) + \nu f_i(x), \qquad F_0(x) = 0 \\]

    Member i regresses, by squared error, the pseudo-residual
    \\( \text{onehot}(y) - \text{softmax}(F_{i-1}(x)) \\), the negative gradient of the
    cross-entropy. The weights of the combination are the shrinkage \\( \nu \\). Members start from
    the pretrained backbone, except that a head of their own starts at zero: the backbone's fits
    labels, not residuals, and a member with zero logits leaves the sum unchanged. Behind the head a
    batch norm may follow; then its scale and offset do. A binary head can't be zero, nor a batch
    norm without scale: these start as in the backbone.

    As in the paper's library there is no line search. Logits that approximate residuals are below 1
    in size, so the sum of a few members gives flat probabilities (a poor NLL), and later members
    see almost the same residual as the first. In the paper it is the worst of all schemes, with 35
    to 37 % on CIFAR-100.

    # References
        - Friedman 2001, Greedy function approximation: a gradient boosting machine.
    """

    name = "boosting"
    sequential = True
    unsupported: ClassVar[Mapping[str, str]] = {
        "prefix_weights": Scheme.unsupported["prefix_weights"]
    }

    def combine(
        self, logits: Sequence[tf.Tensor], weights: Sequence[float] | None = None
    ) -> tf.Tensor:
        stacked = tf.stack(logits)
        weights = [1.0] * len(logits) if weights is None else weights
        return tf.nn.softmax(tf.tensordot(tf.constant(weights, stacked.dtype), stacked, 1))

    def initialize(
        self,
        own: Sequence[keras.layers.Layer],
        head: keras.layers.Layer | None,
        generator: np.random.Generator,
    ) -> None:
        for weight in _weights_of_zero(head):
            weight.assign(tf.zeros_like(weight))

    def objective(self, network: keras.Model, stage: Stage) -> tuple[keras.Model, dict[str, Any]]:
        logits, image = network.outputs[0], network.inputs[0]
        if stage.member:
            previous = stage.so_far()
            previous.trainable = False
            so_far = previous(image, training=False)[-1]
        else:
            so_far = tf.ones_like(logits) / logits.shape[-1]  # softmax(F_0), F_0 = 0
        model = keras.Model(image, tf.stack([logits, so_far], axis=1))
        return model, {
            "loss": PseudoResidualLoss(),
            "metrics": [boosted_accuracy(stage.shrinkage)],
        }

    def member_weight(self, stage: Stage) -> float | None:
        return stage.shrinkage


class SoftBoosting(Boosting):
    r"""Gradient boosting with all members trained together.

    The residuals are those of `Boosting`, of the members before as they are at this step, and
    count as constants: each member fits its own. The loss is the sum of the squared errors

    \\[ L = \sum_{i=1}^{M} \frac{1}{K} \big\| f_i(x) - \text{onehot}(y)
        + \text{softmax}(F_{i-1}(x)) \big\|_2^2 \\]

    of logits of K classes. One training instead of M, in the memory of M members.

    # References
        - Feng et al. 2020, [Soft gradient boosting machine](https://arxiv.org/abs/2006.04059).
    """

    name = "soft_boosting"
    changes_loss_inputs = True
    sequential = False
    independent = False
    unsupported: ClassVar[Mapping[str, str]] = {
        **Boosting.unsupported,
        "patience": Scheme.unsupported["patience"],
        "label_smoothing": "each member fits the residual of the members before it",
        "teacher": "each member fits the residual of the members before it, not the images' labels",
        "in_turn": f"{_ON_THE_SAME_IMAGES}, all at once; choose boosting for sequential training",
        "independent_data": _ON_THE_SAME_IMAGES,
    }

    def losses(self, members: int) -> dict[str, keras.losses.Loss]:
        return {member_output(member): PseudoResidualLoss() for member in range(members)}

    def loss_inputs(
        self, outputs: Sequence[tf.Tensor], weights: Sequence[float] | None
    ) -> Sequence[tf.Tensor]:
        """For each member's loss [n, 2, classes]: its logits, and softmax(F) of those before."""
        members = len(outputs) - len(self.combinations(1))
        weights = [1.0] * members if weights is None else weights
        so_far = tf.zeros_like(outputs[0])
        inputs = []
        for logits, weight in zip(outputs[:members], weights):
            inputs.append(tf.stack([logits, tf.nn.softmax(so_far)], axis=1))
            so_far += weight * logits
        return [*inputs, *outputs[members:]]


def _weights_of_zero(head: keras.layers.Layer | None) -> Sequence[tf.Variable]:
    """The weights that have to be zero for logits of zero; none if the logits can't be zero."""
    if head is None or getattr(head, "kernel_quantizer", None) is not None:
        return []
    if isinstance(head, keras.layers.BatchNormalization):
        return head.trainable_weights if head.scale else []
    return head.weights


@keras.utils.register_keras_serializable("larq_ensemble")
class PseudoResidualLoss(keras.losses.Loss):
    r"""Mean squared difference of a member's logits and the pseudo-residual, over the classes.

    \\[ \frac{1}{K} \big\| f(x) - \text{onehot}(y) + \text{softmax}(F(x)) \big\|_2^2 \\]

    # Input shape
        y_true: class numbers [n] or [n, 1], or distributions [n, classes], the labels y.
        y_pred: [n, 2, classes], the logits f(x) and, a constant, softmax(F(x)).

    # Output shape
        [n], averaged by `reduction`.
    """

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        logits, so_far = tf.unstack(y_pred, axis=1)
        labels = tf.cast(distributions(y_true, tf.shape(logits)[-1]), logits.dtype)
        residual = labels - tf.stop_gradient(so_far)
        return tf.reduce_mean(tf.square(logits - residual), axis=-1)


def boosted_accuracy(shrinkage: float) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The accuracy of F_i = F_{i-1} + shrinkage * f_i, as a Keras metric."""

    def accuracy(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        logits, so_far = tf.unstack(y_pred, axis=1)
        # The logarithm of a softmax is its logits up to a constant.
        scores = tf.math.log(so_far) + shrinkage * logits
        return keras.metrics.sparse_categorical_accuracy(class_numbers(y_true), scores)

    return accuracy
