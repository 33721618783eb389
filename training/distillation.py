"""Knowledge distillation (Hinton et al. 2015): learning from the logits of a trained network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from larq_ensemble.ensembles import as_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf
from larq_ensemble.trained import Trained

Teacher = Callable[[tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class Distillation:
    """A teacher, and the hyperparameters of `DistillationLoss`.

    # Arguments
        teacher: any trained run for the same classes and images; an ensemble teaches by its
            combined probabilities.
        weight: w in `DistillationLoss`, from 0 (labels only) to 1 (teacher only).
        temperature: T in `DistillationLoss`, above 0.
    """

    teacher: Trained
    weight: float = 0.9
    temperature: float = 4.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise EnsembleError(f"`weight` must be from 0 to 1, got {self.weight}.")
        if not 0 < self.temperature < float("inf"):
            raise EnsembleError(f"`temperature` must be above 0, got {self.temperature}.")

    def check_teaches(self, model: dict[str, Any]) -> None:
        """Checks that the teacher has the classes and the input of a network.

        # Arguments
            model: arguments of `build_model`.

        # Raises
            EnsembleError: if it hasn't.
        """
        taught = self.teacher.config.model
        for name in ("classes", "input_shape"):
            if taught[name] != model[name]:
                raise EnsembleError(
                    f"`teacher` {str(self.teacher.path)!r} ({taught['name']}) has {name} = "
                    f"{taught[name]}, but {model['name']} has {model[name]}: choose a run on a "
                    "data set of the same shape and classes."
                )


@keras.utils.register_keras_serializable("larq_ensemble")
class DistillationLoss(keras.losses.Loss):
    r"""Cross-entropy with the labels, plus KL divergence from the teacher's predictions.

    \\( (1 - w) \, \mathrm{CE}(y, \mathrm{softmax}(z)) + w \, T^2 \,
    \mathrm{KL}(\mathrm{softmax}(z_t / T) \,\|\, \mathrm{softmax}(z / T)) \\)

    \\( T^2 \\) keeps the size of the second term's gradient independent of T.

    # Arguments
        weight: w.
        temperature: T.

    # Input shape
        y_true: float32 [n, 1 + classes], the label y and the teacher's logits \\( z_t \\).
        y_pred: [n, classes], the logits z.

    # Output shape
        [n], averaged by `reduction`.

    # References
        - Hinton et al. 2015, [Distilling the Knowledge in a Neural
          Network](https://arxiv.org/abs/1503.02531), section 2.
    """

    def __init__(self, weight: float, temperature: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weight = weight
        self.temperature = temperature

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        labels, teacher = tf.cast(y_true[:, 0], tf.int32), y_true[:, 1:]
        hard = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, y_pred)
        log_p = tf.nn.log_softmax(teacher / self.temperature)
        log_q = tf.nn.log_softmax(y_pred / self.temperature)
        divergence = tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)
        return (1 - self.weight) * hard + self.weight * self.temperature**2 * divergence

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weight": self.weight, "temperature": self.temperature}


class Student(keras.Model):
    """A functional classifier that `fit` trains with `DistillationLoss`.

    It has the layers of the given network. The teacher is not part of it, so neither checkpoints
    nor `trainable_weights` hold the teacher.

    # Arguments
        student: the network to train: image -> logits.
        teacher: see `teacher_logits`.
    """

    def __init__(self, student: keras.Model, teacher: Teacher) -> None:
        super().__init__(student.inputs, student.outputs, name=student.name)
        self._teacher = teacher

    def compute_loss(
        self,
        x: tf.Tensor | None = None,
        y: tf.Tensor | None = None,
        y_pred: tf.Tensor | None = None,
        sample_weight: tf.Tensor | None = None,
    ) -> tf.Tensor:
        taught = tf.stop_gradient(self._teacher(x))
        labels = tf.cast(tf.reshape(y, [-1, 1]), taught.dtype)
        return super().compute_loss(x, tf.concat([labels, taught], 1), y_pred, sample_weight)


def teacher_logits(model: keras.Model) -> Teacher:
    """A function from images to the logits [n, classes] of a backbone or of an ensemble.

    For an ensemble they are the logarithms of its combined probabilities.
    """
    if len(model.outputs) == 1:
        return lambda images: model(images, training=False)
    combined = keras.Model(model.inputs, as_ensemble(model).outputs[-1])
    return lambda images: tf.math.log(combined(images, training=False) + keras.backend.epsilon())
