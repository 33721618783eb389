"""Functional Keras models: cutting and running them layer by layer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from larq_ensemble.keras import keras, tf


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
    return [_cast(x, symbol.dtype) for x, symbol in zip(tensors, model.inputs, strict=True)]


def _cast(x: Any, dtype: tf.DType) -> tf.Tensor:
    # Of a symbolic tensor even a cast to its own type would become a layer.
    if keras.backend.is_keras_tensor(x) and x.dtype == dtype:
        return x
    return tf.cast(x, dtype)


def is_operator(layer: keras.layers.Layer, *names: str) -> bool:
    """Whether a layer stands for one of these TensorFlow functions, called on a Keras tensor."""
    return not layer.weights and getattr(layer, "symbol", None) in names


def computes_as(layer: keras.layers.Layer, *types: type[keras.layers.Layer]) -> bool:
    """Whether a layer is of one of these types, or of a subclass with the same `call`."""
    return any(isinstance(layer, kind) and type(layer).call is kind.call for kind in types)


def has_input_quantizer(layer: keras.layers.Layer) -> bool:
    """Whether a layer is one of Larq's, which reads its input through `input_quantizer` alone.

    A subclass with a `call` of its own may read the input itself too.
    """
    return any(
        computes_as(layer, kind)
        for kind in type(layer).__mro__
        if kind.__module__.startswith("larq.") and hasattr(layer, "input_quantizer")
    )


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
    if not _can_draw(layer):
        return False
    return not all(call.get("training") is False for call in call_arguments(layer))


def drawing_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers that draw random numbers, and those within other layers, in the model's order."""
    return [
        found
        for layer in model.layers
        for found in layer._flatten_layers()
        if (draws(layer) if found is layer else _can_draw(found))
    ]


def _can_draw(layer: keras.layers.Layer) -> bool:
    return hasattr(layer, "_random_generator") and bool(getattr(layer, "rate", 1))


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
        given = (node.call_args, node.call_kwargs)
        missing = [
            argument
            for argument in tf.nest.flatten(given)
            if id(argument) in makers and id(argument) not in values
        ]
        if missing:
            pending += missing
            continue
        args, kwargs = tf.nest.map_structure(
            lambda argument: values.get(id(argument), argument), given
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
