"""Adversarial training of independent members."""

from __future__ import annotations

from typing import Any

import numpy as np

from larq_ensemble.ensembles.fused_models import FusedNetwork
from larq_ensemble.ensembles.loss_scaling import scaled_loss, unscaled_gradients
from larq_ensemble.ensembles.schemes.base import Scheme, Stage
from larq_ensemble.errors import SettingsError
from larq_ensemble.keras import keras, tf
from larq_ensemble.models.functional import input_list


class Adversarial(Scheme):
    r"""Independent members, each also trained on the images that a small change makes hardest.

    \\[ L = \mathrm{CE}(y, f(x)) + \mathrm{CE}(y, f(x')), \qquad
        x' = x + \epsilon \, \text{sign} \, \nabla_x \mathrm{CE}(y, f(x)) \\]

    by the fast gradient sign method, with each member's own gradient: so each sees other images.
    \\( \epsilon \\) is `EPSILON` times the range of a pixel: 255 in images of 8 bits, after the
    normalization of a data set 1 over the standard deviation of the channel. As in
    Lakshminarayanan et al. \\( x' \\) is not clipped to the range; Ensemble-PyTorch clips it.

    # References
        - Goodfellow et al. 2015, [Explaining and harnessing adversarial
          examples](https://arxiv.org/abs/1412.6572).
        - Lakshminarayanan et al. 2017, [Simple and scalable predictive uncertainty estimation
          using deep ensembles](https://arxiv.org/abs/1612.01474).
    """

    name = "adversarial"
    sequential = True
    EPSILON = 0.01

    def objective(self, network: keras.Model, stage: Stage) -> tuple[keras.Model, dict[str, Any]]:
        (image,) = network.inputs
        if not image.dtype.is_floating:
            raise SettingsError(
                f"The scheme {self.name!r} changes images by fractions, but the backbone's input "
                f"is {image.dtype.name}: build it with an input of float32."
            )
        _, compiled = super().objective(network, stage)
        trained = AdversarialNetwork(network.inputs, network.outputs[0], name=network.name)
        trained.epsilon = self.EPSILON * np.asarray(stage.pixel_range, np.float32)
        return trained, compiled


class AdversarialNetwork(FusedNetwork):
    """A network whose training step adds the losses of a batch and of its adversarial images.

    The gradients are those of the sum, see `Adversarial`. The logged `loss` is the mean of the two,
    so it compares with the validation loss.

    # Attributes
        epsilon: the size of the change, one number or one for each channel.
    """

    epsilon: Any

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        images, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        (x,) = input_list(self, images)
        variables = self.trainable_variables
        with tf.GradientTape() as tape:
            tape.watch(x)
            y_pred = self(x, training=True)
            loss = scaled_loss(self.optimizer, self.compute_loss(x, y, y_pred, sample_weight))
        image_gradient, gradients = tape.gradient(loss, (x, variables))
        adversarial = x + tf.cast(self.epsilon, x.dtype) * tf.sign(image_gradient)
        with tf.GradientTape() as tape:
            loss = scaled_loss(
                self.optimizer,
                self.compute_loss(adversarial, y, self(adversarial, training=True), sample_weight),
            )
        adversarial_gradients = tape.gradient(loss, variables)
        sums = [first + second for first, second in zip(gradients, adversarial_gradients)]
        self.optimizer.apply_gradients(zip(unscaled_gradients(self.optimizer, sums), variables))
        return self.compute_metrics(x, y, y_pred, sample_weight)
