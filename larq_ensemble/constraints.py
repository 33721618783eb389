"""Weight constraints that Keras does not have.

Importing this module registers them, so that Keras finds them by name in layers and saved models.
"""

from __future__ import annotations

from typing import Any

from larq_ensemble.keras import keras, lq, tf


@lq.utils.register_alias("at_least")
@keras.utils.register_keras_serializable("larq_ensemble")
class AtLeast(keras.constraints.Constraint):
    r"""Raises every weight below `minimum` to it: \\(w \leftarrow \max(w, \text{minimum})\\).

    It is for the scale of a batch normalization before a sign: with a positive scale the two are
    one threshold per channel, \\(x \geq \mu - \beta \sigma / \gamma\\), in every member of an
    ensemble.

    ```python
    x = keras.layers.BatchNormalization(gamma_constraint="at_least")(x)  # AtLeast(1e-3)
    ```

    The constraint is elementwise, so it holds for weights that are stacked as well.

    # Arguments
        minimum: the smallest value of a weight. The default is far below the scales that networks
            learn, and far above what float32 rounds to zero.
    """

    def __init__(self, minimum: float = 1e-3) -> None:
        self.minimum = minimum

    def __call__(self, w: tf.Tensor) -> tf.Tensor:
        return tf.maximum(w, tf.cast(self.minimum, w.dtype))

    def get_config(self) -> dict[str, Any]:
        return {"minimum": self.minimum}
