"""Reads the `LayerGraph` of a Keras model, for sharing policies, storage and compute.

```python
from larq_ensemble.models import layer_graph
from larq_ensemble.network.storage import account

account(layer_graph(model), members=4).total_bits
```
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.layers import Bias, Mirror
from larq_ensemble.models.backbone import functional_model
from larq_ensemble.models.functional import is_operator
from larq_ensemble.network import sharing as policies
from larq_ensemble.network.graph import Content, Kind, LayerGraph, LayerNode, Stored

Sharing = policies.Sharing | Callable[[keras.layers.Layer], bool]

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_NORMS = (keras.layers.BatchNormalization, keras.layers.LayerNormalization)
_CONTENTS = {
    Kind.CONV: Content.CONV,
    Kind.DENSE: Content.LINEAR,
    Kind.ACTIVATION: Content.ACTIVATION,
}
#: Quantizers whose values are whole numbers, or equal steps of the range from -1 to 1.
_UNSCALED = (
    lq.quantizers.NoOp,
    lq.quantizers.SteSign,
    lq.quantizers.ApproxSign,
    lq.quantizers.SwishSign,
    lq.quantizers.SteHeaviside,
    lq.quantizers.SteTern,
    lq.quantizers.DoReFa,
)
#: The most values of a quantizer of few bits.
_MOST_LEVELS = 1 << 8
_MERGES = ("__operators__.add", "math.add", "concat")


def layer_graph(model: keras.Model) -> LayerGraph:
    """The layer graph of a Keras or Larq model.

    # Arguments
        model: a functional or built sequential model, channels last, with one input and one output.

    # Raises
        EnsembleError: for any other model, with what is wrong with it.
    """
    model = functional_model(model)
    calls = network_calls(model)
    inputs = {name: _input_layers(nodes) for name, nodes in calls.items()}
    # A layer that is called again may depend on itself, but never through first calls alone.
    first_inputs = {name: _input_layers(nodes[:1]) for name, nodes in calls.items()}
    graph: dict[str, LayerNode] = {}
    # Topological order with a stack: a deep network would exceed Python's recursion limit.
    pending = [*reversed(calls)]
    while pending:
        name = pending[-1]
        missing = [source for source in first_inputs[name] if source not in graph]
        if missing:
            pending += missing
            continue
        pending.pop()
        if name not in graph:
            graph[name] = _layer_node(model.get_layer(name), inputs[name], calls[name])
    return LayerGraph(graph.values())


def shared_layers(sharing: Sharing, model: keras.Model) -> frozenset[str]:
    """The layers of a Keras model that members share.

    # Arguments
        sharing: as for `larq_ensemble.network.sharing.shared_layers`, or a predicate on Keras
            layers.
        model: as for `layer_graph`.

    # Returns
        The names of the shared layers that have weights. Keras's `Normalization` layers are among
        them in any case: their mean and variance are those of the data.

    # Raises
        EnsembleError: as `layer_graph` and `larq_ensemble.network.sharing.shared_layers`.
    """
    graph = layer_graph(model)
    if callable(sharing):
        shared = frozenset(
            node.name for node in graph if node.stored and sharing(model.get_layer(node.name))
        )
    else:
        shared = policies.shared_layers(sharing, graph)
    return shared | {
        layer.name
        for layer in model.layers
        if isinstance(layer, keras.layers.Normalization) and layer.weights
    }


def network_calls(model: keras.Model) -> dict[str, list[Any]]:
    """Layer name -> Keras's nodes of its calls that the model's output depends on."""
    pending, nodes = [model.output.node], set()
    while pending:
        node = pending.pop()
        if node not in nodes:
            nodes.add(node)
            pending += [tensor.node for tensor in node.keras_inputs]
    return {
        layer.name: [node for node in layer.inbound_nodes if node in nodes]
        for layer in model.layers
    }


def _input_layers(calls: list[Any]) -> tuple[str, ...]:
    """The names of the input layers of some calls, each once."""
    tensors = (tensor for node in calls for tensor in node.keras_inputs)
    return tuple(dict.fromkeys(tensor.node.layer.name for tensor in tensors))


def _layer_node(layer: keras.layers.Layer, inputs: tuple[str, ...], calls: list[Any]) -> LayerNode:
    kind = _kind(layer)
    return LayerNode(
        layer.name,
        kind,
        inputs,
        stored=tuple(_stored(layer, kind)),
        kernel_size=tuple(layer.kernel_size) if kind is Kind.CONV else (),
        macs=_macs(layer, calls) if kind in (Kind.CONV, Kind.DENSE) else 0,
    )


def _kind(layer: keras.layers.Layer) -> Kind:
    if isinstance(layer, keras.layers.InputLayer):
        return Kind.INPUT
    if isinstance(layer, _CONVOLUTIONS):
        return Kind.CONV
    if isinstance(layer, keras.layers.Dense):
        return Kind.DENSE
    if isinstance(layer, Bias):
        return Kind.BIAS
    if isinstance(layer, _NORMS):
        return Kind.NORM
    if isinstance(layer, Mirror):
        return Kind.OTHER
    merges = (keras.layers.Add, keras.layers.Concatenate)
    if isinstance(layer, merges) or is_operator(layer, *_MERGES):
        return Kind.MERGE
    return Kind.ACTIVATION if layer.weights else Kind.OTHER


def _macs(layer: keras.layers.Layer, calls: list[Any]) -> int | None:
    """Multiply-accumulates of all calls for one image; `None` if its size is unknown."""
    transposed = isinstance(layer, _TRANSPOSED)
    shapes = [node.input_shapes if transposed else node.output_shapes for node in calls]
    positions = [shape[1:-1] for shape in shapes]
    if any(None in sizes for sizes in positions):
        return None
    # Biases and the thresholds of quantizers have one axis, kernels more.
    weights = sum(math.prod(weight.shape) for weight in layer.weights if len(weight.shape) > 1)
    return weights * sum(map(math.prod, positions))


def _stored(layer: keras.layers.Layer, kind: Kind) -> Iterator[Stored]:
    """The values that a device stores of a layer; batch norm is folded to two per channel."""
    if kind is Kind.NORM:
        channels = max((int(weight.shape.num_elements()) for weight in layer.weights), default=0)
        yield Stored(Content.NORM, 2 * channels, 32)
        return
    content = _CONTENTS.get(kind, Content.OTHER)
    bias = getattr(layer, "bias", None)
    # A layer of one's own may keep a variable beside the quantized one that wraps it.
    latent = {id(getattr(weight, "latent_variable", None)) for weight in layer.weights}
    for weight in layer.weights:
        if id(weight) in latent:
            continue
        count = int(weight.shape.num_elements())
        precision, scales = _quantization(weight)
        if weight is bias:
            yield Stored(Content.BIAS, count, 32)
        elif precision == 1:
            yield Stored(Content.BINARY_FILTER, count, 1)
            if scales:
                yield Stored(Content.FILTER_SCALE, scales, 32)
        else:
            # Files hold floating-point weights as float32, whatever a model trains in.
            size = 32 if weight.dtype.is_floating else 8 * weight.dtype.size
            yield Stored(content, count, precision or size)


def _quantization(weight: tf.Variable) -> tuple[int | None, int]:
    """The bits of each value of a weight, `None` if it isn't quantized, and the number of scales.

    Larq's quantizers tell their precision. A function may not, and one of a user's own may return
    scaled signs: both are read off the quantized values.
    """
    quantizer, precision = getattr(weight, "quantizer", None), getattr(weight, "precision", None)
    if quantizer is None or isinstance(quantizer, _UNSCALED):
        return precision, 0
    if isinstance(quantizer, lq.quantizers.MagnitudeAwareSign):
        return precision, int(weight.shape[-1])
    values = np.asarray(quantizer(tf.constant(weight.numpy())))
    scales = _scales(np.abs(values))
    if precision is None and scales is not None:
        precision = 1
    if precision is None:
        levels = np.unique(values).size
        are_few = levels <= min(_MOST_LEVELS, values.size // 4)
        precision = (levels - 1).bit_length() if are_few else None
    return precision, scales or 0


def _scales(magnitudes: np.ndarray) -> int | None:
    """How many scales binary weights have, 0 if all are 1; `None` if they aren't binary.

    # Arguments
        magnitudes: of a kernel; its last two axes are channels.
    """
    for kept in (None, *range(max(0, magnitudes.ndim - 2), magnitudes.ndim)):
        axes = tuple(axis for axis in range(magnitudes.ndim) if axis != kept)
        largest = magnitudes.max(axis=axes, keepdims=True)
        if largest.size < magnitudes.size and (magnitudes == largest).all():
            return 0 if (largest == 1).all() else largest.size
    return None
