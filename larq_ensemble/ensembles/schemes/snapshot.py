"""Snapshot ensembles: members are the minima that one training passes through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from larq_ensemble.ensembles.names import own_name
from larq_ensemble.ensembles.schemes.base import Scheme
from larq_ensemble.errors import SettingsError
from larq_ensemble.keras import keras, tf
from larq_ensemble.layers import Mirror

_ONE_TRAINING = "one training runs through all members"


class Snapshot(Scheme):
    r"""One training with a cyclic learning rate; a member at each minimum.

    \\[ \alpha(t) = \frac{\alpha_0}{2} \left( \cos \frac{\pi (t \bmod T_c)}{T_c} + 1 \right) \\]

    at step t in cycles of \\( T_c \\) steps. Member i has the weights at the end of cycle i, where
    cycle i + 1 starts. Each cycle starts with new optimizer moments.

    # References
        - Huang et al. 2017, [Snapshot ensembles](https://arxiv.org/abs/1704.00109), Eq. 2.
    """

    name = "snapshot"
    sequential = True
    continues = True
    jitter = 0.0
    independent = False
    unsupported: ClassVar[Mapping[str, str]] = {
        **Scheme.unsupported,
        "independent_data": _ONE_TRAINING,
        "warmup_epochs": "its learning rate is cyclic",
    }

    def member_epochs(self, epochs: int, members: int) -> int:
        """# Raises
        SettingsError: if the epochs can't be split evenly.
        """
        if epochs % members:
            raise SettingsError(
                f"The scheme {self.name!r} splits its epochs evenly among the members, and "
                f"`epochs` {epochs} is no multiple of {members}: use "
                f"{-(-epochs // members) * members}."
            )
        return epochs // members

    def possible_epochs(self, epochs: int, members: int) -> int:
        return max(epochs // members, 1) * members

    def learning_rate(
        self, highest: float, lowest: float, steps: int
    ) -> keras.optimizers.schedules.LearningRateSchedule:
        return keras.optimizers.schedules.CosineDecay(
            highest, steps, alpha=lowest / highest if highest else 0.0
        )

    def start(self, network: keras.Model, member: int, previous: keras.Model) -> None:
        prefix, previous_prefix = own_name(member, ""), own_name(member - 1, "")
        for layer in network.layers:
            if isinstance(layer, Mirror):
                continue  # what a member sees is not learned
            if layer.name.startswith(prefix) and layer.weights:
                source = previous_prefix + layer.name.removeprefix(prefix)
                layer.set_weights(previous.get_layer(source).get_weights())


class FastGeometric(Snapshot):
    r"""Fast geometric ensembling: short cycles that leave a minimum and come back to another.

    \\[ \alpha(t) = \alpha_2 + (\alpha_1 - \alpha_2) \left( 1 - \left|
        \frac{2 (t + 1)}{T_c} - 1 \right| \right) \\]

    at step t = 0, 1, ... of a cycle of \\( T_c \\) steps: up from \\( \alpha_2 \\) to
    \\( \alpha_1 \\) and down to \\( \alpha_2 \\) at the last step. Otherwise as `Snapshot`.

    The triangle of Garipov et al. starts at its top, so their first member gets half a cycle. Here
    it starts at the bottom, from the pretrained network, and every member gets a whole cycle.

    # References
        - Garipov et al. 2018, [Loss surfaces, mode connectivity, and fast ensembling of
          DNNs](https://arxiv.org/abs/1802.10026).
    """

    name = "fast_geometric"

    def learning_rate(
        self, highest: float, lowest: float, steps: int
    ) -> keras.optimizers.schedules.LearningRateSchedule:
        return Triangle(highest, steps, lowest)


@keras.utils.register_keras_serializable("larq_ensemble")
class Triangle(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that rises linearly to its highest at half the steps and falls again.

    # Arguments
        highest, lowest: the rate at half the steps, and at the last one.
        steps: of the whole triangle.
    """

    def __init__(self, highest: float, steps: int, lowest: float) -> None:
        self.highest, self.steps, self.lowest = highest, steps, lowest

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        done = (tf.cast(step, tf.float32) + 1) / self.steps
        return self.lowest + (self.highest - self.lowest) * (1 - tf.abs(2 * done - 1))

    def get_config(self) -> dict[str, Any]:
        return {"highest": self.highest, "steps": self.steps, "lowest": self.lowest}
