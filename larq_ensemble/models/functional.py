"""Functional Keras models as data: their configuration, and their layer graph.

`Model.get_config()` of a functional model lists every layer with the calls that were made of it;
each call names the tensors it was given as `[layer, call, tensor]`. This module reads such
references; `larq_ensemble.ensembles.building` rewrites them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.network.graph import Content, Kind, LayerGraph, LayerNode, Stored

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
_NORMS = (keras.layers.BatchNormalization, keras.layers.LayerNormalization)
_CONTENTS = {
    Kind.CONV: Content.CONV,
    Kind.DENSE: Content.LINEAR,
    Kind.ACTIVATION: Content.ACTIVATION,
}
_ADDITIONS = ("__operators__.add", "math.add")


def classifier(model: keras.Model) -> keras.Model:
    """The functional model from the image to the logits of a classifier.

    A final softmax, as a layer or as the activation of the last dense layer, is taken off.

    # Arguments
        model: a functional or a built sequential Keras model with one input, one output and a
            dense layer at its end.

    # Returns
        A functional model that ends in the linear layer. Its layers are the same objects, except
        that a dense layer with a softmax inside is replaced by a copy without.

    # Raises
        EnsembleError: for any other model, with what is wrong with it.
    """
    model = _functional(model)
    output = model.outputs[0]
    while True:
        layer = output.node.layer
        if isinstance(layer, keras.layers.Dense):
            break
        if not _is_final_activation(layer):
            raise EnsembleError(
                f"No linear layer found at the end of the model {model.name!r}: its last layer "
                f"{layer.name!r} is a {type(layer).__name__}, but a classifier must end in a "
                "Dense layer (a softmax may follow)."
            )
        output = _input_of(output)
    if layer.activation is not keras.activations.linear:
        if layer.activation is not keras.activations.softmax:
            raise EnsembleError(
                f"The linear layer {layer.name!r} has the activation "
                f"{keras.activations.serialize(layer.activation)!r}: an ensemble averages logits, "
                "so it must have none or softmax."
            )
        linear = type(layer).from_config({**layer.get_config(), "activation": "linear"})
        output = linear(_input_of(output))
        linear.set_weights(layer.get_weights())
    return keras.Model(model.inputs, output, name=model.name)


def _input_of(output: Any) -> Any:
    """What the last layer was called on: `layer.input` is that of its first call anywhere."""
    return output.node.keras_inputs[0]


def _functional(model: Any) -> keras.Model:
    if not isinstance(model, keras.Model):
        raise EnsembleError(
            f"`backbone` must be a tf.keras (Keras 2) model, got {type(model).__name__}."
        )
    if isinstance(model, keras.Sequential) and model.built:
        model = keras.Model(model.inputs, model.outputs, name=model.name)
    try:
        config = model.get_config()
    except NotImplementedError:
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


def _is_final_activation(layer: keras.layers.Layer) -> bool:
    if isinstance(layer, keras.layers.Softmax):
        return True
    return isinstance(layer, keras.layers.Activation) and layer.activation in (
        keras.activations.linear,
        keras.activations.softmax,
    )


def map_references(
    value: Any, names: set[str], change: Callable[[str, int, int], list[Any]]
) -> Any:
    """A copy of part of a functional configuration with every tensor reference changed.

    # Arguments
        value: `inbound_nodes` or anything inside.
        names: the layers of the model.
        change: (layer, call, tensor) -> the new `[layer, call, tensor]`.
    """
    if _is_reference(value, names):
        rest = [map_references(item, names, change) for item in value[3:]]
        return [*change(*value[:3]), *rest]
    if isinstance(value, (list, tuple)):
        return type(value)(map_references(item, names, change) for item in value)
    if isinstance(value, dict):
        return {key: map_references(item, names, change) for key, item in value.items()}
    return copy.deepcopy(value)


def references(value: Any, names: set[str]) -> Iterator[str]:
    """The layers that part of a functional configuration refers to."""
    if _is_reference(value, names):
        yield value[0]
        value = value[3:]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    for item in value:
        yield from references(item, names)


def _is_reference(value: Any, names: set[str]) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) >= 3
        and isinstance(value[0], str)
        and value[0] in names
        and isinstance(value[1], int)
        and isinstance(value[2], int)
    )


def layer_graph(model: keras.Model) -> LayerGraph:
    """The layers of a functional or built sequential model with what a device stores of each.

    # Raises
        EnsembleError: for a model of another form, with what is wrong with it.
    """
    model = _functional(model)
    config = model.get_config()
    calls = {layer["name"]: layer["inbound_nodes"] for layer in config["layers"]}
    names = set(calls)
    inputs = {name: tuple(dict.fromkeys(references(calls[name], names))) for name in calls}
    # A layer that is called again may depend on itself, but never by way of first calls alone.
    first_inputs = {name: tuple(references(calls[name][:1], names)) for name in calls}
    nodes: dict[str, LayerNode] = {}

    def visit(name: str) -> None:
        # Iterative, because a deep network would exceed Python's recursion limit.
        stack = [name]
        while stack:
            current = stack[-1]
            missing = [source for source in first_inputs[current] if source not in nodes]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            if current not in nodes:
                nodes[current] = _layer_node(model.get_layer(current), inputs[current])

    for name in calls:
        visit(name)
    return LayerGraph(nodes.values())


def _layer_node(layer: keras.layers.Layer, inputs: tuple[str, ...]) -> LayerNode:
    kernel_size = ()
    if isinstance(layer, keras.layers.InputLayer):
        kind = Kind.INPUT
    elif isinstance(layer, _CONVOLUTIONS):
        kind, kernel_size = Kind.CONV, tuple(layer.kernel_size)
    elif isinstance(layer, keras.layers.Dense):
        kind = Kind.DENSE
    elif isinstance(layer, _NORMS):
        kind = Kind.NORM
    elif isinstance(layer, keras.layers.Add) or _is_addition(layer):
        kind = Kind.MERGE
    elif layer.weights:
        kind = Kind.ACTIVATION
    else:
        kind = Kind.OTHER
    return LayerNode(layer.name, kind, inputs, tuple(_stored(layer, kind)), kernel_size)


def _is_addition(layer: keras.layers.Layer) -> bool:
    return layer.get_config().get("function") in _ADDITIONS if not layer.weights else False


def _stored(layer: keras.layers.Layer, kind: Kind) -> Iterator[Stored]:
    if kind is Kind.NORM:
        channels = max((int(weight.shape.num_elements()) for weight in layer.weights), default=0)
        yield Stored(Content.NORM, 2 * channels, 32)
        return
    content = _CONTENTS.get(kind, Content.OTHER)
    biases = {id(weight) for weight in [getattr(layer, "bias", None)] if weight is not None}
    for weight in layer.weights:
        count = int(weight.shape.num_elements())
        precision = getattr(weight, "precision", None)
        if id(weight) in biases:
            yield Stored(Content.BIAS, count, 32)
        elif precision == 1:
            yield Stored(Content.BINARY_FILTER, count, 1)
            if isinstance(_quantizer(weight), lq.quantizers.MagnitudeAwareSign):
                yield Stored(Content.FILTER_SCALE, int(weight.shape[-1]), 32)
        else:
            yield Stored(content, count, precision or 8 * weight.dtype.size)


def _quantizer(weight: Any) -> Any:
    return getattr(weight, "quantizer", None)


def run_functional(
    layers: Iterable[keras.layers.Layer],
    known: Mapping[Any, Any],
    wanted: Sequence[Any],
    call: Callable[[keras.layers.Layer, Any, Any], Any],
) -> list[Any]:
    """Computes part of a functional model, layer by layer.

    # Arguments
        layers: those between the tensors that are known and those that are wanted, or more.
        known: the values of symbolic tensors, by `KerasTensor.ref()`.
        wanted: the symbolic tensors to compute.
        call: `call(layer, args, kwargs)` gives what the layer's call would.

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
    # A stack of its own: a deep network would exceed Python's recursion limit.
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
