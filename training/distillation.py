"""Knowledge distillation (Hinton et al. 2015): learning from the logits of a trained network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from larq_ensemble.data.normalization import Normalization
from larq_ensemble.ensembles import Ensemble, as_ensemble, fused_network
from larq_ensemble.ensembles.fused_models import FusedNetwork
from larq_ensemble.ensembles.labels import CrossEntropy
from larq_ensemble.ensembles.schemes import Scheme
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf
from larq_ensemble.trained import Trained

Teacher = Callable[[tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class Distillation:
    """A teacher, and the hyperparameters of `DistillationLoss`.

    # Arguments
        teacher: any trained run for the same classes and images; an ensemble teaches by its
            combined probabilities. Nobody knows what the training of a Keras file held out, so it
            teaches on its data only if nothing is held out.
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

    def check_sees(self, normalization: Normalization) -> None:
        """# Raises
        EnsembleError: if the teacher was trained on images of another normalization: it would see
            those of the student.
        """
        own = self.teacher.normalization
        if not own.is_close(normalization):
            raise EnsembleError(
                f"`teacher` {str(self.teacher.path)!r} was trained on images with mean "
                f"{list(own.mean)} and std {list(own.std)}, but this run has "
                f"{list(normalization.mean)} and {list(normalization.std)}: train one like the "
                "other."
            )

    def check_smoothing(self, label_smoothing: float) -> None:
        """# Raises
        EnsembleError: if labels are to be smoothed that don't count.
        """
        if label_smoothing and self.weight == 1:
            raise EnsembleError(
                f"`label_smoothing` {label_smoothing} has no effect with the `weight` 1 of the "
                "teacher, with which labels don't count: leave it out."
            )

    def losses(
        self, scheme: Scheme, members: int, *, label_smoothing: float = 0.0
    ) -> dict[str, keras.losses.Loss]:
        """The losses of an ensemble by output, for `Model.compile`: where the scheme has its own.

        So in fusion the mean of the logits learns from the teacher, in nested fusion the mean of
        the first m for each m, and in voting and bagging each member.
        """
        return {
            output: DistillationLoss(
                self.weight,
                self.temperature,
                from_logits=loss.get_config()["from_logits"],
                label_smoothing=label_smoothing,
            )
            for output, loss in scheme.losses(members).items()
        }

    def to_json(self) -> dict[str, Any]:
        """What a run records of it."""
        return {
            "weight": self.weight,
            "temperature": self.temperature,
            "teacher": self.teacher.digest,
        }


@keras.utils.register_keras_serializable("larq_ensemble")
class DistillationLoss(keras.losses.Loss):
    r"""Cross-entropy with the labels, plus KL divergence from the teacher's predictions.

    \\( (1 - w) \, \mathrm{CE}(y, \mathrm{softmax}(z)) + w \, T^2 \,
    \mathrm{KL}(\mathrm{softmax}(z_t / T) \,\|\, \mathrm{softmax}(z / T)) \\)

    \\( T^2 \\) keeps the size of the second term's gradient independent of T.

    # Arguments
        weight: w.
        temperature: T.
        from_logits: whether `y_pred` are logits; else they are probabilities.
        label_smoothing: of the label y, as in `larq_ensemble.ensembles.labels.CrossEntropy`.

    # Input shape
        y_true: float32 [n, 1 + classes], the label y and the teacher's logits \\( z_t \\).
        y_pred: [n, classes], the logits z or softmax(z).

    # Output shape
        [n], averaged by `reduction`.

    # References
        - Hinton et al. 2015, [Distilling the Knowledge in a Neural
          Network](https://arxiv.org/abs/1503.02531), section 2.
    """

    def __init__(
        self,
        weight: float,
        temperature: float,
        *,
        from_logits: bool = True,
        label_smoothing: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.weight = weight
        self.temperature = temperature
        self.from_logits = from_logits
        self.label_smoothing = label_smoothing
        self._hard = CrossEntropy(
            from_logits=True, label_smoothing=label_smoothing, reduction="none"
        )

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        labels, teacher = tf.cast(y_true[:, 0], tf.int32), y_true[:, 1:]
        y_pred = y_pred if self.from_logits else _logits_behind(y_pred)
        hard = self._hard(labels, y_pred)
        log_p = tf.nn.log_softmax(teacher / self.temperature)
        log_q = tf.nn.log_softmax(y_pred / self.temperature)
        divergence = tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)
        return (1 - self.weight) * hard + self.weight * self.temperature**2 * divergence

    def get_config(self) -> dict[str, Any]:
        own = {"weight": self.weight, "temperature": self.temperature}
        of_labels = {"from_logits": self.from_logits, "label_smoothing": self.label_smoothing}
        return {**super().get_config(), **own, **of_labels}


def _logits_behind(probabilities: tf.Tensor) -> tf.Tensor:
    """The logits whose softmax the probabilities are, up to a constant."""
    # Keras notes them where a softmax is computed. Their logarithms lose what is rounded to 0.
    logits = getattr(probabilities, "_keras_logits", None)
    if logits is not None:
        return logits
    return tf.math.log(tf.maximum(probabilities, keras.backend.epsilon()))


class Student(FusedNetwork):
    """A functional classifier that `fit` trains with `DistillationLoss`.

    It has the layers of the given network. The teacher is not part of it, so neither checkpoints
    nor `trainable_weights` hold the teacher.

    # Arguments
        student: the network to train: image -> logits.
        teacher: see `teacher_logits`.
        bfloat16: as for `larq_ensemble.ensembles.fused_network`.
    """

    def __init__(self, student: keras.Model, teacher: Teacher, *, bfloat16: bool = False) -> None:
        super().__init__(student.inputs, student.outputs, name=student.name)
        self.bfloat16 = bfloat16
        self._teacher = teacher

    def compute_loss(
        self,
        x: tf.Tensor | None = None,
        y: tf.Tensor | None = None,
        y_pred: tf.Tensor | None = None,
        sample_weight: tf.Tensor | None = None,
    ) -> tf.Tensor:
        taught = tf.stop_gradient(self._teacher(x))
        return super().compute_loss(x, _with_labels(y, taught), y_pred, sample_weight)


class TaughtEnsemble(Ensemble):
    """An ensemble that `fit` trains with `DistillationLoss`, see `Distillation.losses`.

    It has the layers of the given ensemble. The teacher is not part of it, as in `Student`. Members
    that see different images are each taught on their own.

    # Arguments
        ensemble: the ensemble to train.
        teacher: see `teacher_logits`.
    """

    def __init__(self, ensemble: Ensemble, teacher: Teacher) -> None:
        super().__init__(ensemble.inputs, ensemble.outputs, name=ensemble.name)
        self._teacher = teacher

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None
    ) -> tf.Tensor:
        outputs = [*self.scheme.losses(self.members)]
        labels = y if isinstance(y, Mapping) else dict.fromkeys(outputs, y)
        taught = [tf.stop_gradient(self._teacher(images)) for images in self.input_list(x)]
        taught = taught if len(taught) > 1 else taught * len(outputs)
        y = {name: _with_labels(labels[name], logits) for name, logits in zip(outputs, taught)}
        return super().compute_loss(x, y, y_pred, sample_weight)


def _with_labels(labels: tf.Tensor, taught: tf.Tensor) -> tf.Tensor:
    """`y_true` of `DistillationLoss`."""
    return tf.concat([tf.cast(tf.reshape(labels, [-1, 1]), taught.dtype), taught], 1)


def teacher_logits(model: keras.Model, *, bfloat16: bool = False) -> Teacher:
    """A function from images to the logits [n, classes] of a backbone or of an ensemble.

    For an ensemble they are the logarithms of its combined probabilities.

    # Arguments
        bfloat16: as for `larq_ensemble.ensembles.fused_network`.
    """
    is_backbone = len(model.outputs) == 1
    if not is_backbone:
        model = keras.Model(model.inputs, as_ensemble(model).outputs[-1])
    if bfloat16:
        model = fused_network(model, bfloat16=True)

    inputs = len(model.inputs)

    def logits(images: tf.Tensor) -> tf.Tensor:
        outputs = model([images] * inputs if inputs > 1 else images, training=False)
        return outputs if is_backbone else tf.math.log(outputs + keras.backend.epsilon())

    return logits
