"""Constraints on weights that Keras does not have.

Keras finds them by name when it loads a model, once this module is imported.
"""

from __future__ import annotations

from typing import Any

from larq_ensemble.keras import keras, tf


@keras.utils.register_keras_serializable("larq_ensemble")
class AtLeast(keras.constraints.Constraint):
    r"""Raises every weight below `minimum` to it: \\(w \leftarrow \max(w, \text{minimum})\\).

    For the scale of a batch normalization before a sign: while that is positive, the two are one
    threshold a channel, \\(x \geq \mu - \beta \sigma / \gamma\\), in every member of an ensemble.

    ```python
    x = keras.layers.BatchNormalization(gamma_constraint=AtLeast(1e-3))(x)
    ```

    Weights are constrained one by one, so a constraint holds for stacked weights as for each.

    # Arguments
        minimum: the smallest value that a weight can have.
    """

    def __init__(self, minimum: float) -> None:
        self.minimum = minimum

    def __call__(self, w: tf.Tensor) -> tf.Tensor:
        return tf.maximum(w, tf.cast(self.minimum, w.dtype))

    def get_config(self) -> dict[str, Any]:
        return {"minimum": self.minimum}
