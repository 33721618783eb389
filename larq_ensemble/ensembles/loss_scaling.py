"""Loss scaling in our own training steps, as Keras's step does it for `mixed_float16`.

Small gradients would be 0 in float16. So Keras wraps the optimizer of a `mixed_float16` model in a
`LossScaleOptimizer`: the loss is multiplied by a large number, and the gradients are divided by it.

# References
    - Micikevicius et al. 2018, [Mixed precision training](https://arxiv.org/abs/1710.03740).
"""

from __future__ import annotations

from collections.abc import Sequence

from larq_ensemble.keras import keras, tf


def scaled_loss(optimizer: keras.optimizers.Optimizer, loss: tf.Tensor) -> tf.Tensor:
    """The loss to differentiate."""
    return optimizer.get_scaled_loss(loss) if _scales(optimizer) else loss


def unscaled_gradients(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[tf.Tensor | None]
) -> Sequence[tf.Tensor | None]:
    """The gradients of the loss itself, from those of `scaled_loss`."""
    return optimizer.get_unscaled_gradients(gradients) if _scales(optimizer) else gradients


def _scales(optimizer: keras.optimizers.Optimizer) -> bool:
    return isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer)
