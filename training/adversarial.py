"""Training against the fast gradient sign method (Goodfellow et al. 2015)."""

from __future__ import annotations

from typing import Any

from larq_ensemble.ensembles.fused_activations import OnePassNetwork
from larq_ensemble.keras import keras, tf


class AdversarialTraining(OnePassNetwork):
    """A network whose training step takes the loss of its images and of adversarial ones.

    The gradients are those of the sum, see `larq_ensemble.ensembles.schemes.Adversarial`; the `loss` that
    is logged is the mean of the two, and so comparable with that of the validation.

    # Attributes
        epsilon: the size of the change, one number or one for each channel.
    """

    epsilon: Any

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        variables = self.trainable_variables
        with tf.GradientTape() as tape:
            tape.watch(x)
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred, sample_weight)
        of_images, gradients = tape.gradient(loss, (x, variables))
        adversarial = x + self.epsilon * tf.sign(of_images)
        with tf.GradientTape() as tape:
            loss = self.compute_loss(
                adversarial, y, self(adversarial, training=True), sample_weight
            )
        also = tape.gradient(loss, variables)
        self.optimizer.apply_gradients(
            (first + second, variable)
            for first, second, variable in zip(gradients, also, variables)
        )
        return self.compute_metrics(x, y, y_pred, sample_weight)
