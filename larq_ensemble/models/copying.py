"""Copies of layers and of functional networks.

Keras copies a network by its configuration, in which every function and every class stands by its
name: what is not registered can't be found again, and a `Lambda` has to be trusted. But here the
layers are at hand. So a layer is copied by its own class, which needs no registration, and a copy
of a network is what comes out if the copies are called as the layers were.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.keras import keras, tf
from larq_ensemble.models.functional import run_functional

#: (layer, its configuration) -> that of its copy.
Change = Callable[[keras.layers.Layer, dict[str, Any]], dict[str, Any]]

_OTHER_FLOATS = ("float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16")


def copied_layer(
    layer: keras.layers.Layer,
    *,
    name: str | None = None,
    change: Change = lambda layer, config: config,
) -> keras.layers.Layer:
    """A new layer that is configured as another. It has no weights before it is called.

    # Arguments
        name: of the copy; `None`: that of the layer.
        change: changes the configuration. A `Lambda` has its functions in there.

    # Raises
        EnsembleError: if the layer can't be made from its configuration.
    """
    try:
        config = change(layer, _configuration(layer))
        if name is not None and "name" in config:
            config = {**config, "name": name}
        copied = _from_configuration(layer, config)
        if {id(weight) for weight in copied.weights} & {id(weight) for weight in layer.weights}:
            raise TypeError("it holds layers that are not serialized")
        # What not every configuration has. A wrapper has the regularizer of its layer.
        copied._name = layer.name if name is None else name
        if copied.activity_regularizer is None and layer.activity_regularizer is not None:
            copied.activity_regularizer = layer.activity_regularizer
    except Exception as error:  # Keras raises whatever a layer raises.
        raise EnsembleError(
            f"The layer {layer.name!r} ({type(layer).__name__}) can't be copied for each member, "
            "because it can't be made from its configuration "
            f"({first_line(error)}): a class of yours in it that takes arguments needs "
            "`get_config`, which returns them."
        ) from error
    return copied


def copied_network(
    network: keras.Model,
    change: Change = lambda layer, config: config,
    argument: Callable[[Any], Any] = lambda value: value,
) -> keras.Model:
    """A functional model of the same class on copies of its layers, with new weights.

    # Arguments
        change: changes the configuration of each layer.
        argument: changes each argument of a layer's call that is no tensor of the network.
    """
    copies = {layer.name: copied_layer(layer, change=change) for layer in network.layers}

    def call(layer: keras.layers.Layer, args: Any, kwargs: Any) -> Any:
        args, kwargs = tf.nest.map_structure(
            lambda value: value if hasattr(value, "_keras_history") else argument(value),
            (args, kwargs),
        )
        return copies[layer.name](*args, **kwargs)

    inputs = [copies[tensor.node.layer.name].output for tensor in network.inputs]
    known = {tensor.ref(): value for tensor, value in zip(network.inputs, inputs)}
    outputs = run_functional(network.layers, known, network.outputs, call)
    return type(network)(
        tf.nest.pack_sequence_as(network.input, inputs),
        tf.nest.pack_sequence_as(network.output, outputs),
        name=network.name,
    )


def behaviour(layer: keras.layers.Layer) -> dict[str, Any]:
    """What a layer does once it is built, apart from its weights: equal for a copy of it."""
    # That of an operator on tensors is a function of its own, which calls `function`.
    attributes = {name: value for name, value in vars(layer).items() if name != "call"}
    # By name, functions of the same name would be the same.
    functions = {
        name: _function(value) for name, value in attributes.items() if inspect.isfunction(value)
    }
    try:
        config = _configuration(layer)
    except NotImplementedError:
        plain = (bool, int, float, str, list, tuple, Mapping, np.ndarray, tf.Tensor)
        config = {name: value for name, value in attributes.items() if isinstance(value, plain)}
        config = {name: value for name, value in config.items() if not name.startswith("_")}
    config = {name: value for name, value in config.items() if name not in functions}
    return {**_settings(config), "functions": functions}


def by_value(value: Any) -> Any:
    """What compares equal only for values that are the same: of arrays a digest.

    The text of a large array leaves most of its numbers out.
    """
    if isinstance(value, (tf.Tensor, tf.Variable)):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(value.tobytes()).hexdigest()
        return f"{value.dtype} {list(value.shape)} {digest[:16]}"
    if isinstance(value, functools.partial):
        return by_value([value.func, value.args, value.keywords])
    if isinstance(value, Mapping):
        return {key: by_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [*map(by_value, value)]
    return value


def _function(function: Any) -> Any:
    """A function's code, and the values that it brings along."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return function.__code__, by_value([function.__defaults__, function.__kwdefaults__, *cells])


def _settings(config: Any) -> Any:
    """What of a configuration matters once a layer is built, such as its quantizers' arguments."""
    if isinstance(config, (list, tuple)):
        return [*map(_settings, config)]
    if not isinstance(config, Mapping):
        return by_value(config)
    # Keras numbers names and shared objects. Own initializers are those of the backbone.
    ignored = ("name", "trainable", "seed", "shared_object_id", "build_config")
    return {
        key: _settings(value)
        for key, value in config.items()
        if key not in ignored and not key.endswith("_initializer")
    }


def in_float32(model: keras.Model) -> keras.Model:
    """A functional model whose layers compute in float32, with the weights of `model`.

    # Returns
        The model itself if its layers compute in float32 already, else a copy.
    """
    if not any({layer.dtype, layer.compute_dtype} & {*_OTHER_FLOATS} for layer in model.layers):
        return model
    copied = copied_network(model, lambda layer, config: _with_float32(config), _float32_of)
    for layer in model.layers:
        weights = [weight.astype("float32") for weight in layer.get_weights()]
        copied.get_layer(layer.name).set_weights(weights)
    return copied


def _with_float32(config: Any) -> Any:
    """A configuration in which every floating-point dtype or policy is float32."""
    if isinstance(config, dict):
        return {
            key: "float32"
            if key == "dtype" and _policy_name(item) in _OTHER_FLOATS
            else _with_float32(item)
            for key, item in config.items()
        }
    if isinstance(config, (list, tuple)):  # Keras's lists are of a type of its own
        items = map(_with_float32, config)
        return tuple(items) if isinstance(config, tuple) else [*items]
    return copy.deepcopy(config)


def _policy_name(dtype: Any) -> Any:
    return dtype["config"].get("name") if isinstance(dtype, dict) else dtype


def _float32_of(argument: Any) -> Any:
    """An argument of a call, such as the dtype of `tf.cast`."""
    name = argument.name if isinstance(argument, tf.DType) else argument
    return tf.float32 if isinstance(name, str) and name in _OTHER_FLOATS else argument


def _configuration(layer: keras.layers.Layer) -> dict[str, Any]:
    if type(layer) is not keras.layers.Lambda:
        with warnings.catch_warnings():
            # That a file with it would need `safe_mode=False`.
            warnings.filterwarnings("ignore", ".*includes a `lambda`")
            return layer.get_config()
    # Its own `get_config` would write the functions as code.
    return {
        **keras.layers.Layer.get_config(layer),
        "function": layer.function,
        "output_shape": layer._output_shape,
        "mask": layer.mask,
        "arguments": layer.arguments,
    }


def _from_configuration(layer: keras.layers.Layer, config: dict[str, Any]) -> keras.layers.Layer:
    if type(layer) is keras.layers.Lambda:
        return keras.layers.Lambda(**config)
    functions = {
        name: value
        for name, value in vars(layer).items()
        if name in config and inspect.isfunction(value)
    }

    def of(config: dict[str, Any]) -> keras.layers.Layer:
        # With the layer's own classes and functions nothing has to be registered.
        with keras.utils.custom_object_scope(_by_name(layer)):
            return type(layer).from_config(tf.nest.map_structure(lambda value: value, config))

    try:
        copied = of(config)
    except Exception:  # Keras raises whatever a layer raises.
        if not functions:
            raise
        return of({**config, **functions})
    if all(_is_same(getattr(copied, name, None), value) for name, value in functions.items()):
        return copied
    # Functions of one name; and Larq takes the name of a function for that of a class.
    return of({**config, **functions})


def _is_same(copied: Any, function: Any) -> bool:
    """Whether a layer's function is that of the original, or was made anew from the same code."""
    if copied is function or function.__closure__:
        return copied is function
    return getattr(copied, "__code__", None) is function.__code__


def _by_name(layer: keras.layers.Layer) -> dict[str, Any]:
    """The functions of a layer and the classes of its parts, as Keras names them."""
    found: dict[str, Any] = {}
    for part in (layer, *layer.submodules):
        for value in (part, *vars(part).values()):
            if inspect.isfunction(value):
                found[value.__name__] = value
            elif hasattr(value, "get_config") and not inspect.isclass(value):
                found[type(value).__name__] = type(value)
    return found
