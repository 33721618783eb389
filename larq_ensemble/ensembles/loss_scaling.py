"""Loss scaling for layers of the policy `mixed_float16`, and in our own training steps.

Small gradients would be 0 in float16. So Keras wraps the optimizer of a `mixed_float16` model in a
`LossScaleOptimizer`: the loss is multiplied by a large number, and the gradients are divided by it.

# References
    - Micikevicius et al. 2018, [Mixed precision training](https://arxiv.org/abs/1710.03740).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from larq_ensemble.keras import keras, tf


def with_loss_scaling(optimizer: Any, model: keras.Model) -> Any:
    """The optimizer for a model's layers, wrapped if any of them computes in `mixed_float16`.

    Keras wraps it if the global policy was `mixed_float16` when the model was made. A model on
    layers from a file, or of an earlier moment, would be trained without scaling then.

    # Arguments
        optimizer: as for `keras.Model.compile`.
        model: the model that is compiled with it.
    """
    if not any(layer.dtype_policy.name == "mixed_float16" for layer in _layers(model)):
        return optimizer
    optimizer = keras.optimizers.get(optimizer)
    return optimizer if _scales(optimizer) else keras.mixed_precision.LossScaleOptimizer(optimizer)


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers of a model, and those within them."""
    return (part for part in model.submodules if isinstance(part, keras.layers.Layer))


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
