"""Labels as class numbers [n] or as distributions [n, classes], such as one-hot or mixed labels."""

from __future__ import annotations

from typing import Any

from larq_ensemble.keras import keras, tf


def class_numbers(labels: Any) -> tf.Tensor:
    """The class of each label, [n]; of a distribution the most probable one."""
    labels = tf.convert_to_tensor(labels)
    if are_distributions(labels):
        return tf.argmax(labels, axis=-1)
    return tf.reshape(labels, [-1])


def distributions(labels: Any, classes: int | tf.Tensor) -> tf.Tensor:
    """Each label as a distribution, float32 [n, classes]."""
    labels = tf.convert_to_tensor(labels)
    if are_distributions(labels):
        return tf.cast(labels, tf.float32)
    return tf.one_hot(tf.cast(tf.reshape(labels, [-1]), tf.int32), classes)


def are_distributions(labels: Any) -> bool:
    """Whether labels are distributions, and not class numbers [n] or [n, 1]."""
    shape = tf.TensorShape(labels.shape)
    return shape.rank == 2 and shape[-1] not in (None, 1)


@keras.utils.register_keras_serializable("larq_ensemble")
class CrossEntropy(keras.losses.SparseCategoricalCrossentropy):
    r"""Cross-entropy with class numbers, as Keras's, or with distributions.

    \\[ L = - \sum_k \Big( (1 - s) \, y_k + \frac{s}{K} \Big) \log p_k \\]

    # Arguments
        label_smoothing: s; of the K classes each gets s / K of every label.
        **kwargs: those of `keras.losses.SparseCategoricalCrossentropy`.

    # Input shape
        y_true: class numbers [n] or [n, 1], or distributions [n, classes].
        y_pred: [n, classes].
    """

    def __init__(self, *, label_smoothing: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        if not are_distributions(y_true) and not self.label_smoothing:
            return super().call(y_true, y_pred)
        y_true = tf.cast(distributions(y_true, tf.shape(y_pred)[-1]), y_pred.dtype)
        # Keras finds the logits behind a final softmax in both.
        return keras.losses.categorical_crossentropy(
            y_true,
            y_pred,
            from_logits=self.get_config()["from_logits"],
            label_smoothing=self.label_smoothing,
        )

    def smoothed(self, label_smoothing: float) -> CrossEntropy:
        """The same loss with smoothed labels."""
        return type(self).from_config({**self.get_config(), "label_smoothing": label_smoothing})

    def get_config(self) -> dict[str, Any]:
        smoothing = {"label_smoothing": self.label_smoothing} if self.label_smoothing else {}
        return {**super().get_config(), **smoothing}


@keras.utils.register_keras_serializable("larq_ensemble")
class Accuracy(keras.metrics.SparseCategoricalAccuracy):
    """The share of images whose most probable class is the label's, as in `class_numbers`."""

    def __init__(self, name: str = "accuracy", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return super().update_state(class_numbers(y_true), y_pred, sample_weight)
