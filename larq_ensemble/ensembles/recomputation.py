"""Recomputation: training all members together in the activation memory of one.

Backpropagation through a fusion loss keeps the activations of all M members until the loss is
known. But members meet only in their logits, which are small. So a step

1. runs the members one after the other and keeps only their logits \\( z_i \\);
2. computes the loss L and its gradients \\( \\partial L / \\partial z_i \\);
3. runs each member again and backpropagates from its \\( \\partial L / \\partial z_i \\).

The gradients are those of the plain step. The second forward pass makes a step about 4/3 as long.

`Ensemble.compile(..., recompute=True)` chooses it.

# References
    - Chen et al. 2016, Training deep nets with sublinear memory cost.
    - Gao et al. 2021, Scaling deep contrastive learning batch size under memory limited setup
      (the gradients of the representations, cached between two passes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from larq_ensemble.ensembles.loss_scaling import scaled_loss, unscaled_gradients
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf
from larq_ensemble.models.functional import draws

if TYPE_CHECKING:
    from larq_ensemble.ensembles.ensemble import Ensemble


def recomputed_step(ensemble: Ensemble, x: Any, y: Any, sample_weight: Any) -> dict[str, tf.Tensor]:
    """A training step of an ensemble that runs each member twice.

    # Arguments
        x, y, sample_weight: a batch, as for `keras.Model.compute_loss`.

    # Returns
        The logs of the step.
    """
    networks = [ensemble.member(member) for member in range(ensemble.members)]
    inputs = ensemble.input_list(x)
    inputs = inputs if len(inputs) > 1 else inputs * ensemble.members

    states = _states(ensemble)
    before = [state.read_value() for state in states]
    logits: list[tf.Tensor] = []
    for network, images in zip(networks, inputs):
        logits.append(network(_after(logits[-1:], images), training=True))
    for state, value in zip(states, before):
        state.assign(value)

    variables = ensemble.trainable_variables
    with tf.GradientTape() as tape:
        tape.watch(logits)
        y_pred = [*logits, *ensemble.combine(logits)]
        loss = scaled_loss(ensemble.optimizer, ensemble.compute_loss(x, y, y_pred, sample_weight))
    # The loss depends on the variables themselves only by regularization.
    logit_gradients, variable_gradients = tape.gradient(loss, (logits, variables))
    gradients = {
        variable.ref(): gradient
        for variable, gradient in zip(variables, variable_gradients)
        if gradient is not None
    }

    finished = [gradient for gradient in logit_gradients if gradient is not None]
    for network, images, gradient in zip(networks, inputs, logit_gradients):
        if not network.trainable_variables:
            continue
        with tf.GradientTape() as tape:
            output = network(_after(finished, images), training=True)
        member_gradients = tape.gradient(output, network.trainable_variables, gradient)
        finished = [gradient for gradient in member_gradients if gradient is not None]
        for variable, part in zip(network.trainable_variables, member_gradients):
            if part is not None:
                so_far = gradients.get(variable.ref())
                gradients[variable.ref()] = part if so_far is None else so_far + part

    # Otherwise TensorFlow may update a weight before all gradients have passed through it.
    with tf.control_dependencies([tf.group(*gradients.values())]):
        scaled = [gradients.get(variable.ref()) for variable in variables]
        unscaled = unscaled_gradients(ensemble.optimizer, scaled)
        ensemble.optimizer.apply_gradients(zip(unscaled, variables))
    return ensemble.compute_metrics(x, y, y_pred, sample_weight)


def check_recomputable(ensemble: keras.Model) -> None:
    """# Raises
    EnsembleError: if layers draw random numbers that can't be repeated, or add losses that
        depend on the images.
    """
    for layer in ensemble.layers:
        generator = getattr(layer, "_random_generator", None)
        if getattr(generator, "_rng_type", None) == "legacy_stateful" and draws(layer):
            raise EnsembleError(
                f"`recompute` can't repeat what the layer {layer.name!r} draws, because Keras "
                "hides the state of its generator: call "
                "keras.backend.experimental.enable_tf_random_generator() before the ensemble is "
                "built."
            )
    if has_losses_of_images(ensemble):
        raise EnsembleError(
            "`recompute` computes the loss from the members' logits, but layers of this ensemble "
            "add losses that depend on the images: build it without activity_regularizer and "
            "add_loss."
        )


def has_losses_of_images(model: keras.Model) -> bool:
    """Whether layers of the model add losses that depend on the images."""
    # Keras keeps losses of weights alone, regularization, as functions.
    of_weights = sum(len(getattr(part, "_callable_losses", ())) for part in model.submodules)
    return len(model.losses) > of_weights


def _after(results: list[tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    """The images, as a tensor that waits for these results.

    Otherwise TensorFlow would run members in parallel. The placeholder keeps the graph optimizer
    from merging the second run with the first, which would keep the first run's activations.
    """
    with tf.control_dependencies([tf.group(*results)]):
        return tf.raw_ops.PlaceholderWithDefault(input=images, shape=images.shape)


def _states(model: keras.Model) -> list[tf.Variable]:
    """The variables that a forward pass in training changes: batch norm and Dropout states."""
    states = []
    for layer in model.layers:
        if layer.trainable:
            states.extend(layer.non_trainable_weights)
        generator = getattr(getattr(layer, "_random_generator", None), "_generator", None)
        if generator is not None:
            states.append(generator.state)
    return states
