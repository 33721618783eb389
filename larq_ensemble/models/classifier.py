"""Classifiers: from any backbone to the network whose outputs are the logits.

What a layer at the end of a network does is found out by trying it. So a softmax is one whoever
wrote it: `Softmax()`, `activation="softmax"`, `tf.nn.softmax`, a `Lambda`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf
from larq_ensemble.layers import Bias, Mirror, TwoLogits
from larq_ensemble.models.backbone import Call, free_name, functional_model, rewired
from larq_ensemble.models.copying import copied_layer
from larq_ensemble.models.graph import layer_graph
from larq_ensemble.network.graph import Role, bias_name


class _Does(Enum):
    """What a layer without weights, or an activation, does to its input."""

    NOTHING = "nothing"
    RESHAPE = "reshape"
    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    RECTIFY = "rectify"
    OTHER = "other"


def classifier(model: keras.Model) -> keras.Model:
    """A classifier as a functional model from the image to the logits.

    A final softmax is taken off, also one in front of layers that only reshape. A final sigmoid of
    one unit, for two classes, becomes the logits (0, z), whose softmax is
    (1 - sigmoid(z), sigmoid(z)). Logits `[n, 1, 1, classes]` are flattened.

    # Arguments
        model: a functional or a built sequential Keras model with one input and one output, see
            `larq_ensemble.models.backbone.functional_model`.

    # Returns
        A functional model: image -> logits `[n, classes]`. It has the layers of `model` themselves;
        only those at the end that would make probabilities, or another shape, are replaced.

    # Raises
        EnsembleError: for a model whose outputs are no logits of classes, with what is wrong.
    """
    model = functional_model(model)
    output, probabilities = _logits(model)
    name = output.node.layer.name
    shape = [size for size in output.shape[1:-1] if size != 1]
    if shape or len(output.shape) < 2 or output.shape[-1] is None:
        raise EnsembleError(
            f"The model {model.name!r} has outputs of the shape {tuple(output.shape)}, but a "
            "classifier has [n, classes]: put global pooling or Flatten before its last layer, and "
            "give its input a size."
        )
    if len(output.shape) > 2:
        output = keras.layers.Flatten(name=f"{name}_flat")(output)
    if probabilities is _Does.SIGMOID and output.shape[-1] > 1:
        raise _not_logits(name, "sigmoid")
    if output.shape[-1] == 1:
        if probabilities is not _Does.SIGMOID:
            raise EnsembleError(
                f"The model {model.name!r} has one output, of {name!r}, and no sigmoid: an "
                "ensemble classifies. For two classes give it two units, or one unit and the "
                "activation sigmoid."
            )
        output = TwoLogits(name=f"{name}_two_logits")(output)
    return keras.Model(model.inputs, output, name=model.name)


def with_head_bias_apart(model: keras.Model) -> keras.Model:
    """The same classifier with the bias of its head in a `Bias` layer of its own behind it.

    # Arguments
        model: of `classifier`.

    # Returns
        A functional model on copies of the layers, with their weights. A model without a head, or
        whose head has no bias, comes back as it is.
    """
    heads = [name for name, role in layer_graph(model).roles.items() if role is Role.HEAD]
    head = model.get_layer(heads[0]) if heads else None
    if head is None or not head.use_bias:
        return model
    linear = head.activation is keras.activations.linear
    without = _without_activation(head, use_bias=False)
    behind = Bias(name=bias_name(head.name), dtype=head.dtype_policy.name)

    def call(layer: keras.layers.Layer, args: Any, kwargs: Any, copy: Call) -> Any:
        if layer is not head:
            return copy(layer, args, kwargs)
        outputs = behind(without(*args, **kwargs))
        return outputs if linear else activation(outputs)

    activation = keras.layers.Activation(head.activation, name=f"{head.name}_activation")
    apart = rewired(model, call)
    *weights, bias = head.get_weights()
    without.set_weights(weights)
    behind.set_weights([bias])
    return apart


def with_mirror(model: keras.Model) -> keras.Model:
    """The same classifier with a `Mirror` before its first layer, which leaves images as they are.

    # Arguments
        model: of `classifier`.

    # Returns
        A functional model on copies of the layers, with their weights.

    # Raises
        EnsembleError: if its inputs are no images of a known width, channels last, or it has a
            `Mirror` already.
    """
    if any(isinstance(layer, Mirror) for layer in model.layers):
        raise EnsembleError(
            f"The model {model.name!r} has a Mirror layer already, as a member of an ensemble with "
            "`mirror` has: leave `mirror` out, or take the backbone of that ensemble. "
            "`build_model(..., weights=NAME)` is that of one of the package."
        )
    if any(getattr(layer, "data_format", "") == "channels_first" for layer in model.layers):
        raise EnsembleError(
            f"`mirror` is for images [n, height, width, channels], and layers of {model.name!r} "
            "have the channels first: leave it out."
        )
    (image,) = model.inputs
    if len(image.shape) != 4 or image.shape[2] is None:
        raise EnsembleError(
            "`mirror` is for images [n, height, width, channels] of a known width, and the model "
            f"{model.name!r} takes {tuple(image.shape)}: leave it out, or give the input a width."
        )
    mirror = Mirror(name=free_name("mirror", {layer.name for layer in model.layers}))
    return rewired(model, lambda layer, args, kwargs, copy: copy(layer, args, kwargs), first=mirror)


def last_with_weights(model: keras.Model) -> str | None:
    """The name of the layer with weights that makes the logits: the head, or one behind it.

    `None` if several make them together.
    """
    output = model.outputs[0]
    while not output.node.layer.weights:
        if len(output.node.keras_inputs) != 1:
            return None
        output = _input_of(output)
    return output.node.layer.name


def _logits(model: keras.Model) -> tuple[Any, _Does]:
    """The tensor of the logits, and what makes probabilities of them: nothing, or what it was."""
    end, reshapes = _end_of(model.outputs[0])
    layer = end.node.layer
    does = _call_does(end)
    if does in (_Does.SOFTMAX, _Does.SIGMOID):
        return _reshaped(_input_of(end), reshapes), does
    activation = getattr(layer, "activation", None)
    if layer.weights and callable(activation):
        does = _tried(activation, end.shape[1:], layer.compute_dtype)
        if does in (_Does.SOFTMAX, _Does.SIGMOID):
            linear = _without_activation(layer)
            logits = linear(*end.node.call_args, **end.node.call_kwargs)
            linear.set_weights(layer.get_weights())
            return _reshaped(logits, reshapes), does
        if does is not _Does.NOTHING:
            raise _not_logits(layer.name, getattr(activation, "__name__", type(activation)))
    elif does is _Does.RECTIFY:
        raise EnsembleError(
            f"The model {model.name!r} ends in the layer {layer.name!r} ({type(layer).__name__}), "
            "whose outputs are never negative: an ensemble averages logits, so end the network in "
            "logits or in a softmax."
        )
    if not layer.weights and _gives_probabilities(model):
        raise EnsembleError(
            f"The outputs of the model {model.name!r} are probabilities, but its last layer "
            f"{layer.name!r} ({type(layer).__name__}) is no softmax that could be taken off: end "
            "the network in logits or in a softmax."
        )
    return _reshaped(end, reshapes), _Does.NOTHING


def _end_of(output: Any) -> tuple[Any, list[keras.layers.Layer]]:
    """The tensor before the last layers that do nothing, and those that only reshape it."""
    reshapes: list[keras.layers.Layer] = []
    while (does := _call_does(output)) in (_Does.NOTHING, _Does.RESHAPE):
        if does is _Does.RESHAPE:
            reshapes.append(output.node.layer)
        output = _input_of(output)
    return output, reshapes


def _reshaped(output: Any, reshapes: list[keras.layers.Layer]) -> Any:
    for layer in reversed(reshapes):
        output = copied_layer(layer)(output)
    return output


def _not_logits(name: str, activation: Any) -> EnsembleError:
    return EnsembleError(
        f"The linear layer {name!r} has the activation {activation!r}: an ensemble averages "
        "logits, so it must have none or softmax."
    )


def _without_activation(layer: keras.layers.Layer, **changes: Any) -> keras.layers.Layer:
    """A copy of a layer without its activation, and with other changes of its configuration."""
    copied = copied_layer(layer, change=lambda layer, config: {**config, **changes})
    copied.activation = keras.activations.linear
    return copied


def _input_of(output: Any) -> Any:
    """The input of the call that made `output`; `layer.input` is that of the layer's first call."""
    return output.node.keras_inputs[0]


def _call_does(output: Any) -> _Does:
    """What the call of a layer does that made a symbolic tensor."""
    node = output.node
    layer = node.layer
    is_random = hasattr(layer, "_random_generator")
    if node.is_input or layer.weights or is_random or len(node.keras_inputs) != 1:
        return _Does.OTHER
    (symbol,) = node.keras_inputs

    def call(x: tf.Tensor) -> tf.Tensor:
        args, kwargs = tf.nest.map_structure(
            lambda argument: x if argument is symbol else argument,
            (node.call_args, node.call_kwargs),
        )
        return layer(*args, **kwargs)

    return _tried(call, symbol.shape[1:], symbol.dtype)


def _tried(function: Callable[[Any], Any], shape: Any, dtype: Any) -> _Does:
    """What a function does to normally distributed values `[n, ..., channels]`.

    # Arguments
        shape: without n; `None`: any size.
    """
    x = _normal(shape, dtype)
    try:
        y = tf.cast(function(x), tf.float32).numpy()
    except Exception:  # It raises whatever a user's function raises.
        return _Does.OTHER
    x = tf.cast(x, tf.float32).numpy()
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    candidates = {
        _Does.NOTHING: x,
        _Does.SOFTMAX: exponentials / exponentials.sum(-1, keepdims=True),
        _Does.SIGMOID: 1 / (1 + np.exp(-x)),
    }
    if y.shape == x.shape:
        for does, expected in candidates.items():
            if np.allclose(y, expected, rtol=1e-2, atol=1e-3):
                return does
    elif y.size == x.size == len(x) * x.shape[-1] and np.array_equal(y.ravel(), x.ravel()):
        return _Does.RESHAPE  # of single pixels
    return _Does.RECTIFY if (y >= 0).all() else _Does.OTHER


def _gives_probabilities(model: keras.Model) -> bool:
    """Whether the outputs for some images sum to 1."""
    (image,) = model.inputs
    outputs = model(_normal(image.shape[1:], image.dtype), training=False)
    outputs = tf.cast(outputs, tf.float32).numpy().reshape(len(outputs), -1)
    return bool((outputs >= 0).all() and np.allclose(outputs.sum(-1), 1, atol=1e-2))


def _normal(shape: Any, dtype: Any) -> tf.Tensor:
    sizes = [8 if size is None else size for size in shape]
    return tf.cast(np.random.default_rng(0).normal(size=(4, *sizes)), dtype)
