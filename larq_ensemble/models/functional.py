"""Functional Keras models: checking, cutting and running them layer by layer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import check_keras_2, keras, tf
from larq_ensemble.layers import Bias
from larq_ensemble.network.graph import bias_name


def classifier(model: keras.Model) -> keras.Model:
    """A classifier as a functional model from the image to the logits.

    A final softmax is removed, whether it is a layer or the activation of the last dense layer. A
    dense layer with one unit and a sigmoid, for two classes, becomes one with the two logits
    (0, z), whose softmax is (1 - sigmoid(z), sigmoid(z)).

    # Arguments
        model: a functional or a built sequential Keras model with one input and one output that
            ends in a dense layer.

    # Returns
        A functional model that ends in the linear layer. It has the layers of `model` themselves;
        only a dense layer with a softmax activation, or with a sigmoid, is replaced.

    # Raises
        EnsembleError: for any other model, with what is wrong with it.
    """
    model = functional_model(model)
    output = model.outputs[0]
    if len(output.shape) != 2:
        raise EnsembleError(
            f"The model {model.name!r} has outputs of the shape {output.shape}, but a classifier "
            "has [n, classes]: put global pooling or Flatten before its last Dense layer."
        )
    is_sigmoid = False
    while True:
        layer = output.node.layer
        if isinstance(layer, keras.layers.Dense):
            break
        is_sigmoid |= getattr(layer, "activation", None) is keras.activations.sigmoid
        if not _is_final_activation(layer):
            raise EnsembleError(
                f"No linear layer found at the end of the model {model.name!r}: its last layer "
                f"{layer.name!r} is a {type(layer).__name__}, but a classifier must end in a "
                "Dense layer (a softmax may follow)."
            )
        output = _input_of(output)
    is_sigmoid |= layer.activation is keras.activations.sigmoid
    if layer.units == 1:
        return keras.Model(model.inputs, _two_logits(layer, output, is_sigmoid), name=model.name)
    if is_sigmoid or layer.activation is not keras.activations.linear:
        if is_sigmoid or layer.activation is not keras.activations.softmax:
            activation = "sigmoid" if is_sigmoid else keras.activations.serialize(layer.activation)
            raise EnsembleError(
                f"The linear layer {layer.name!r} has the activation {activation!r}: an ensemble "
                "averages logits, so it must have none or softmax."
            )
        linear = type(layer).from_config({**layer.get_config(), "activation": "linear"})
        output = linear(_input_of(output))
        linear.set_weights(layer.get_weights())
    return keras.Model(model.inputs, output, name=model.name)


def with_head_bias_apart(model: keras.Model) -> keras.Model:
    """The same classifier with the bias of its linear layer in a `Bias` layer of its own behind it.

    # Arguments
        model: of `classifier`.

    # Returns
        A functional model that has the layers of `model` themselves but for the linear layer; that
        is a copy without bias. A model without that bias comes back as it is.
    """
    output = model.outputs[0]
    head = output.node.layer
    if not head.use_bias:
        return model
    *weights, bias = head.get_weights()
    without = type(head).from_config({**head.get_config(), "use_bias": False})
    behind = Bias(name=bias_name(head.name), dtype=head.dtype_policy.name)
    output = behind(without(_input_of(output)))
    without.set_weights(weights)
    behind.set_weights([bias])
    return keras.Model(model.inputs, output, name=model.name)


def _two_logits(layer: keras.layers.Dense, output: Any, is_sigmoid: bool) -> Any:
    """The two logits of a network with one output, from a copy of its dense layer."""
    if not is_sigmoid or getattr(layer, "kernel_quantizer", None) is not None:
        raise EnsembleError(
            f"The linear layer {layer.name!r} has one unit"
            f"{' and a binarized kernel' if is_sigmoid else ' and no sigmoid'}: an ensemble "
            "classifies. For two classes give it two units, or one unit and the activation sigmoid."
        )
    config = {**layer.get_config(), "units": 2, "activation": "linear"}
    pair = type(layer).from_config(config)
    logits = pair(_input_of(output))
    weights = layer.get_weights()
    pair.set_weights([np.concatenate([np.zeros_like(w), w], axis=-1) for w in weights])
    return logits


def _input_of(output: Any) -> Any:
    """The input of the call that made `output`; `layer.input` is that of the layer's first call."""
    return output.node.keras_inputs[0]


def functional_model(model: Any) -> keras.Model:
    """Checks that a model can become an ensemble, and makes a sequential one functional.

    # Raises
        EnsembleError: if it isn't a functional or built sequential Keras 2 model with one input
            and one output, or if a layer of it is a model.
    """
    check_keras_2(backbone=model)
    if not isinstance(model, keras.Model):
        raise EnsembleError(
            f"`backbone` must be a tf.keras (Keras 2) model, got {type(model).__name__}."
        )
    if isinstance(model, keras.Sequential) and model.built:
        model = keras.Model(model.inputs, model.outputs, name=model.name)
    if not model._is_graph_network:
        raise EnsembleError(
            f"The model {model.name!r} is not a functional Keras model but a "
            f"{type(model).__name__}: its layer graph can't be read. Build it with "
            "keras.Model(inputs, outputs)."
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise EnsembleError(
            f"The model {model.name!r} has {len(model.inputs)} inputs and {len(model.outputs)} "
            "outputs: a backbone has one of each."
        )
    nested = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
    if nested:
        raise EnsembleError(
            f"The model {model.name!r} contains the model {nested[0]!r} as a layer: call the "
            "inner model's layers directly, so that each can be shared or not."
        )
    return model


def built_by_their_calls(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a functional model whose layers are built when they are first called.

    Keras would build registered layers before, outside the scope of their names, so that their
    variables have one name (`alpha:0`), which HDF5 files refuse.
    """
    layers = [
        {key: value for key, value in layer.items() if key != "build_config"}
        for layer in config["layers"]
    ]
    return {**config, "layers": layers}


def input_list(model: keras.Model, inputs: Any) -> list[tf.Tensor]:
    """What a functional model is called with, in the order and dtypes of its inputs, as Keras does.

    # Arguments
        inputs: a tensor, a list of tensors, or a dictionary of them by the inputs' names.
    """
    if isinstance(inputs, Mapping):
        tensors = [inputs[name] for name in model.input_names]
    else:
        tensors = tf.nest.flatten(inputs)
    return [tf.cast(x, symbol.dtype) for x, symbol in zip(tensors, model.inputs, strict=True)]


def _is_final_activation(layer: keras.layers.Layer) -> bool:
    if isinstance(layer, keras.layers.Softmax) or is_operator(layer, "nn.softmax"):
        return True
    return isinstance(layer, keras.layers.Activation) and layer.activation in (
        keras.activations.linear,
        keras.activations.sigmoid,
        keras.activations.softmax,
    )


def is_operator(layer: keras.layers.Layer, *names: str) -> bool:
    """Whether a layer stands for one of these TensorFlow functions, called on a Keras tensor."""
    return not layer.weights and getattr(layer, "symbol", None) in names


def called(
    layer: keras.layers.Layer, args: Sequence[Any], kwargs: Mapping[str, Any], *, training: bool
) -> Any:
    """Calls a layer as Keras does in a network that is called with `training`."""
    args, kwargs = with_training(layer, args, kwargs, training)
    return layer(*args, **kwargs)


def with_training(
    layer: keras.layers.Layer, args: Sequence[Any], kwargs: Mapping[str, Any], training: bool
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The arguments of a layer's call in a network that is called with `training`.

    # Arguments
        args, kwargs: of the layer's call in the network. A `training` among them stays, as in
            `BatchNormalization()(x, training=False)`.
    """
    if not layer._expects_training_arg:
        return args, kwargs
    trains = training_of(layer, args, kwargs, training)
    return args[:1], {**arguments(layer, args, kwargs), "training": trains}


def training_of(
    layer: keras.layers.Layer, args: Sequence[Any], kwargs: Mapping[str, Any], training: bool
) -> bool:
    """Whether a layer of a network that is called with `training` trains in this call."""
    given = arguments(layer, args, kwargs).get("training")
    return training if given is None else bool(given)


def arguments(
    layer: keras.layers.Layer, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a layer's call by name, without its first, the inputs."""
    if len(args) < 2:
        return {**kwargs}
    names = [*inspect.signature(layer.call).parameters]
    return {**dict(zip(names[1:], args[1:])), **kwargs}


def call_arguments(layer: keras.layers.Layer) -> list[dict[str, Any]]:
    """Of each call of a layer the `arguments`."""
    nodes = [node for node in layer.inbound_nodes if not node.is_input]
    return [arguments(layer, node.call_args, node.call_kwargs) for node in nodes]


def draws(layer: keras.layers.Layer) -> bool:
    """Whether a layer draws random numbers, in training at least."""
    if not hasattr(layer, "_random_generator") or not getattr(layer, "rate", 1):
        return False
    return not all(call.get("training") is False for call in call_arguments(layer))


def run_functional(
    layers: Iterable[keras.layers.Layer],
    known: Mapping[Any, Any],
    wanted: Sequence[Any],
    call: Callable[[keras.layers.Layer, Any, Any], Any],
) -> list[Any]:
    """Computes part of a functional model, layer by layer.

    # Arguments
        layers: all layers between `known` and `wanted`, or more.
        known: values of symbolic tensors, by `KerasTensor.ref()`.
        wanted: the symbolic tensors to compute.
        call: `call(layer, args, kwargs)` stands for `layer(*args, **kwargs)`.

    # Returns
        The values of `wanted`.
    """
    makers = {
        id(output): node
        for layer in layers
        for node in layer.inbound_nodes
        for output in tf.nest.flatten(node.outputs)
    }
    values = {id(reference.deref()): value for reference, value in known.items()}
    pending = [*wanted]
    # With a stack, because a deep network would exceed Python's recursion limit.
    while pending:
        tensor = pending[-1]
        if id(tensor) in values:
            pending.pop()
            continue
        node = makers[id(tensor)]
        arguments = (node.call_args, node.call_kwargs)
        missing = [
            argument
            for argument in tf.nest.flatten(arguments)
            if id(argument) in makers and id(argument) not in values
        ]
        if missing:
            pending += missing
            continue
        args, kwargs = tf.nest.map_structure(
            lambda argument: values.get(id(argument), argument), arguments
        )
        outputs = call(node.layer, args, kwargs)
        symbols = tf.nest.flatten(node.outputs)
        for symbol, value in zip(symbols, tf.nest.flatten(outputs), strict=True):
            values[id(symbol)] = value
    return [values[id(tensor)] for tensor in wanted]


def boundary(
    network: keras.Model,
    first: Sequence[keras.layers.Layer],
    rest: Sequence[keras.layers.Layer],
) -> list[Any]:
    """The symbolic tensors that layers of `rest` take from those of `first`, or the inputs."""
    made = {
        id(tensor)
        for layer in first
        for node in layer.inbound_nodes
        for tensor in tf.nest.flatten(node.outputs)
    }
    taken = {
        id(tensor): tensor
        for layer in rest
        for node in layer.inbound_nodes
        for tensor in (() if node.is_input else node.keras_inputs)
        if id(tensor) in made
    }
    return [*taken.values()] if made else [*network.inputs]
