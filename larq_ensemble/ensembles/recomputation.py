"""Training of many members together, in the activation memory of one.

Back-propagation through a fusion loss keeps the activations of all M members until the loss is
known. But members meet only in their logits, which are small. So a step

1. runs the members one after the other and keeps nothing but their logits \\( z_i \\);
2. takes the loss L and its gradients \\( \\partial L / \\partial z_i \\);
3. runs the members one after the other again, now to back-propagate from their
   \\( \\partial L / \\partial z_i \\).

The gradients are those of the plain step. A forward pass more makes a step about 4/3 as long.

```python
ensemble = build_ensemble(backbone, members=16)
trained = recompute_members(ensemble)  # its layers are the ensemble's
trained.compile("adam", **compile_arguments(trained))
trained.fit(images, labels)
ensemble.save("ensemble.keras")
```

# References
    - Chen et al. 2016, Training deep nets with sublinear memory cost.
    - Gao et al. 2021, Scaling deep contrastive learning batch size under memory limited setup
      (the gradients of the representations, cached between two passes).
"""

from __future__ import annotations

from typing import Any

from larq_ensemble.ensembles.building import EnsembleView, has_losses_of_images
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf


@keras.utils.register_keras_serializable("larq_ensemble")
class RecomputingEnsemble(keras.Model):
    """An ensemble whose training step recomputes members; `recompute_members` makes one."""

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        view = EnsembleView(self)
        networks = [view.member(member) for member in range(view.members)]
        inputs = x if len(self.inputs) > 1 else [x] * view.members

        states = _states(self)
        before = [state.read_value() for state in states]
        logits: list[tf.Tensor] = []
        for network, images in zip(networks, inputs):
            logits.append(network(_after(logits[-1:], images), training=True))
        for state, value in zip(states, before):
            state.assign(value)

        variables = self.trainable_variables
        with tf.GradientTape() as tape:
            tape.watch(logits)
            y_pred = [*logits, *view.combine(logits)]
            loss = self.compute_loss(x, y, y_pred, sample_weight)
        # Of the variables themselves the loss knows only the regularization.
        of_logits, of_variables = tape.gradient(loss, (logits, variables))
        gradients = {
            variable.ref(): gradient
            for variable, gradient in zip(variables, of_variables)
            if gradient is not None
        }

        finished = [gradient for gradient in of_logits if gradient is not None]
        for network, images, gradient in zip(networks, inputs, of_logits):
            with tf.GradientTape() as tape:
                output = network(_after(finished, images), training=True)
            of_member = tape.gradient(output, network.trainable_variables, gradient)
            finished = [gradient for gradient in of_member if gradient is not None]
            for variable, part in zip(network.trainable_variables, of_member):
                if part is not None:
                    so_far = gradients.get(variable.ref())
                    gradients[variable.ref()] = part if so_far is None else so_far + part

        # Else TensorFlow may update a weight that a gradient has still to pass through.
        with tf.control_dependencies([tf.group(*gradients.values())]):
            self.optimizer.apply_gradients(
                (gradients.get(variable.ref()), variable) for variable in variables
            )
        return self.compute_metrics(x, y, y_pred, sample_weight)


def recompute_members(ensemble: keras.Model) -> RecomputingEnsemble:
    """The same ensemble, on the same layers, to be trained in the activation memory of one member.

    # Arguments
        ensemble: what `build_ensemble` returned. If its Dropout layers draw, they must have been
            built after `keras.backend.experimental.enable_tf_random_generator()`, for Keras
            otherwise hides the state that the second pass has to draw from again.

    # Returns
        A Keras model to compile and fit. Gradients, batch norm statistics, draws of Dropout,
        metrics and checkpoints are those of `ensemble`.

    # Raises
        EnsembleError: if `ensemble` is none, or has layers whose draws can't be repeated or that
            add to the loss what depends on the images.
    """
    EnsembleView(ensemble)
    for layer in ensemble.layers:
        generator = getattr(layer, "_random_generator", None)
        if getattr(generator, "_rng_type", None) == "legacy_stateful" and getattr(layer, "rate", 1):
            raise EnsembleError(
                f"Recomputation can't repeat what the layer {layer.name!r} draws: call "
                "keras.backend.experimental.enable_tf_random_generator() before the ensemble is "
                "built."
            )
    if has_losses_of_images(ensemble):
        raise EnsembleError(
            "Recomputation knows the members' logits alone, but layers of this ensemble add to the "
            "loss what depends on the images: build it without activity_regularizer and add_loss."
        )
    return RecomputingEnsemble(ensemble.inputs, ensemble.outputs, name=ensemble.name)


def _after(results: list[tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    """The images, for a network that has to wait for these results.

    TensorFlow would run members side by side. The placeholder is a precaution: it keeps the graph's
    optimizer from taking the second run for the first, whose activations it would have to keep.
    """
    with tf.control_dependencies([tf.group(*results)]):
        return tf.raw_ops.PlaceholderWithDefault(input=images, shape=images.shape)


def _states(model: keras.Model) -> list[tf.Variable]:
    """What a forward pass in training changes: batch norm's statistics, the states of Dropout."""
    states = []
    for layer in model.layers:
        if layer.trainable:
            states.extend(layer.non_trainable_weights)
        generator = getattr(getattr(layer, "_random_generator", None), "_generator", None)
        if generator is not None:
            states.append(generator.state)
    return states
