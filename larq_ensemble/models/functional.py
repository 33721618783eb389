"""Functional Keras models: checking, cutting, rewiring and running them layer by layer.

`Model.get_config()` of a functional model lists the layers with all their calls. A call refers to
its input tensors as `[layer, call, tensor]`; `map_references` changes these references.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.keras import check_keras_2, keras, tf
from larq_ensemble.layers import Bias
from larq_ensemble.network.graph import bias_name

_OTHER_FLOATS = ("float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16")


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
    try:
        config = model.get_config()
    except NotImplementedError:
        _check_configurable(model)
        config = {}
    if "input_layers" not in config:
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


def rebuilt(model: keras.Model, config: dict[str, Any]) -> keras.Model:
    """A functional model of new layers.

    # Arguments
        model: whose layers the new ones are copies of.
        config: of the new model.

    # Raises
        EnsembleError: if Keras can't rebuild a layer, with its name.
    """
    try:
        return keras.Model.from_config(config)
    except Exception as error:  # Keras raises whatever a layer raises.
        for layer in model.get_config()["layers"]:
            if not _is_rebuilt(layer):
                raise _not_copied(layer["config"]["name"], layer["class_name"]) from error
        raise EnsembleError(
            f"Keras can't rebuild the model {model.name!r} from the configuration of its "
            f"layers ({first_line(error)}): {_CAN_BE_COPIED}."
        ) from error


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


def _is_rebuilt(config: dict[str, Any]) -> bool:
    """Whether Keras makes a layer of the configuration of one; of some it makes a string."""
    alone = {key: value for key, value in config.items() if key != "inbound_nodes"}
    try:
        return isinstance(keras.layers.deserialize(alone), keras.layers.Layer)
    except Exception:  # Keras raises whatever a layer raises.
        return False


_CAN_BE_COPIED = (
    "each function or class of yours in it needs "
    "@keras.utils.register_keras_serializable() and, if it has arguments, `get_config`"
)


def _not_copied(name: str, kind: str) -> EnsembleError:
    if kind == "Lambda":
        return EnsembleError(
            f"The layer {name!r} is a Lambda, whose function can't be copied for each member: "
            "write it with operators, such as `2 * x` or `tf.nn.relu(x)`, or as a layer class with "
            "@keras.utils.register_keras_serializable()."
        )
    return EnsembleError(
        f"The layer {name!r} ({kind}) can't be copied for each member, because Keras can't rebuild "
        f"it from its configuration: {_CAN_BE_COPIED}."
    )


def _check_configurable(model: keras.Model) -> None:
    """# Raises
    EnsembleError: if a layer has no configuration, as without `get_config` of a part of it.
    """
    for layer in model.layers:
        try:
            layer.get_config()
        except NotImplementedError as error:
            if not isinstance(layer, keras.Model):
                raise _not_copied(layer.name, type(layer).__name__) from error


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


def in_float32(model: keras.Model) -> keras.Model:
    """A functional model whose layers compute in float32, with the weights of `model`.

    # Returns
        The model itself if its layers compute in float32 already, else a copy.
    """
    if not any({layer.dtype, layer.compute_dtype} & {*_OTHER_FLOATS} for layer in model.layers):
        return model
    copied = type(model).from_config(_with_float32(model.get_config()))
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
    if isinstance(config, (list, tuple)):
        return type(config)(map(_with_float32, config))
    return copy.deepcopy(config)


def _policy_name(dtype: Any) -> Any:
    return dtype["config"].get("name") if isinstance(dtype, dict) else dtype


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
    return not layer.weights and layer.get_config().get("function") in names


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


def map_references(
    value: Any, names: set[str], change: Callable[[str, int, int], list[Any]]
) -> Any:
    """Copies part of a functional configuration and changes each tensor reference.

    # Arguments
        value: `inbound_nodes` or anything inside it.
        names: names of the model's layers.
        change: `(layer, call, tensor)` -> the new `[layer, call, tensor]`.
    """
    if _is_reference(value, names):
        rest = [map_references(item, names, change) for item in value[3:]]
        return [*change(*value[:3]), *rest]
    if isinstance(value, (list, tuple)):
        return type(value)(map_references(item, names, change) for item in value)
    if isinstance(value, dict):
        return {key: map_references(item, names, change) for key, item in value.items()}
    return copy.deepcopy(value)


def _is_reference(value: Any, names: set[str]) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) >= 3
        and isinstance(value[0], str)
        and value[0] in names
        and isinstance(value[1], int)
        and isinstance(value[2], int)
    )


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
