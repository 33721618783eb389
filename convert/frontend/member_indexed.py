"""The member-indexed network: one member's graph, whose own values are rows of constant tables.

LCE takes minutes to convert an ensemble of M branches, and copies each shortcut M times, because it
folds batch norm into it. Here the graph of *one* member has a second input, `member`, and looks up
everything that differs between members:

    scale, offset, ... = rows of tables at `member`
    y = x * scale + offset          # e.g. batch normalization

So the file has one graph and each shared filter once, whatever M is.
`larq_ensemble.convert.frontend.tables` has the tables, and
`larq_ensemble.convert.frontend.lowerings` what each layer computes from its values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from larq_ensemble.convert.categories import Category, category_of
from larq_ensemble.convert.frontend.any_layer import AnyLayerLowering
from larq_ensemble.convert.frontend.lce import convert_function
from larq_ensemble.convert.frontend.lower_bound import lower_bound_parts
from larq_ensemble.convert.frontend.lowerings import (
    BatchNormalizationLowering,
    Lowering,
    Values,
    int8_lowering_of,
    lowering_of,
)
from larq_ensemble.convert.frontend.quantized_constants import quantized_constants
from larq_ensemble.convert.frontend.tables import Tables
from larq_ensemble.convert.frontend.thresholds import ThresholdLowering, prelu_before
from larq_ensemble.convert.frontend.workarounds import (
    cropped,
    hidden,
    is_miscomputed,
    is_padding,
    one_padded,
    padded_in_two_steps,
    right_ternary,
    with_hidden_maps,
)
from larq_ensemble.convert.runnable import check_runnable
from larq_ensemble.data.normalization import Normalization
from larq_ensemble.ensembles import Ensemble
from larq_ensemble.ensembles.names import own_name
from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.ir.graph import Module
from larq_ensemble.keras import keras, tf
from larq_ensemble.models.functional import (
    called,
    run_functional,
    training_of,
    with_training,
)
from larq_ensemble.models.graph import layer_graph
from larq_ensemble.network.graph import Role


class MemberIndexedNetwork:
    """The member-indexed network of an ensemble.

    # Arguments
        ensemble: the ensemble.
        normalization: from pixels to the members' input; part of the graph.
        heads: number format of the weights that make the logits, `"float32"` or `"int8"`.
        precision: of the members' vectors, `"float32"` or `"compact"`; see
            `larq_ensemble.convert.frontend.tables`.
        share_rows: whether the lower bound counts equal rows of the tables once.

    # Attributes
        function: `tf.function` with the inputs `image` (float32 `[1, h, w, c]`, values 0..255)
            and `member` (int32 `[1]`) and the output `logits` (float32 `[1, classes]`).
        variables: all variables that the function reads, those of the shared layers.
        input_shape: `(height, width, channels)`.
        tables: the members' own values.
        lower_bound_parts: see `larq_ensemble.convert.frontend.lower_bound`.
        rewrites: how often a comparison took the place of a batch norm before a sign
            (`threshold_norms`), and of a PReLU before it too (`threshold_prelus`); see
            `larq_ensemble.convert.frontend.thresholds`.

    # Raises
        EnsembleError: if a member owns a layer whose weights can't be looked up, or the input is no
            image.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        *,
        normalization: Normalization,
        heads: str = "float32",
        precision: str = "float32",
        share_rows: bool = True,
    ) -> None:
        network = ensemble.member(0)
        self.input_shape = image_shape(network)
        self._members = ensemble.members
        self._normalization = normalization
        normalization.check_channels(self.input_shape[-1])
        _check_calls(network)
        self._network = network
        self._graph = layer_graph(network)
        self._int8_head = self._head() if heads == "int8" else None
        self._precision = precision
        #: PReLUs that a comparison computes.
        self._within_thresholds: set[str] = set()
        self.rewrites: Counter[str] = Counter()
        self.tables = Tables(precision)
        self._lookups: dict[str, tuple[Lowering, list[str]]] = {}
        self.variables = [weight for layer in ensemble.shared_layers() for weight in layer.weights]
        self._add_own_layers(ensemble)
        self._shared_head: Values = {}
        if self._int8_head is not None and self._int8_head.name not in self._lookups:
            self._shared_head = self._lowering([self._int8_head]).values(self._int8_head)
        self.lower_bound_parts = lower_bound_parts(
            self._graph, ensemble, heads, precision, self.tables, share_rows=share_rows
        )
        self.function = tf.function(
            self._logits,
            input_signature=[
                tf.TensorSpec([1, *self.input_shape], tf.float32, name="image"),
                tf.TensorSpec([1], tf.int32, name="member"),
            ],
            autograph=False,  # no Python control flow depends on tensors; it would take seconds
        )

    def to_module(self, layout: str) -> Module:
        """Converts the function with LCE, for the pipeline.

        # Arguments
            layout: the layout for the pipeline to produce, or `"auto"`.

        # Raises
            EnsembleError: with the converter's reason, if it refuses the graph, or if LCE can't run
                what it makes of it.
        """
        data = convert_function(self.function, self.variables)
        module = read(data, "What Larq Compute Engine's converter makes of the network")
        names = [layer.name for layer in self._network.layers]
        check_runnable(module, data, {name: name.removeprefix(own_name(0, "")) for name in names})
        module.members, module.layout = self._members, layout
        return module

    def _add_own_layers(self, ensemble: Ensemble) -> None:
        """Puts the values of all layers that members own into the tables."""
        own = [
            {
                layer.name.removeprefix(own_name(member, "")): layer
                for layer in ensemble.own_layers(member)
            }
            for member in range(ensemble.members)
        ]
        copies_of = [[layers[name] for layers in own] for name in own[0]]
        # All of them first: they decide which PReLUs comparisons compute.
        lowerings = [self._lowering(copies) for copies in copies_of]
        for copies, lowering in zip(copies_of, lowerings, strict=True):
            if copies[0].name not in self._within_thresholds:
                self._add(copies, lowering)

    def _add(self, copies: Sequence[keras.layers.Layer], lowering: Lowering) -> None:
        """Puts the values of one layer that members own into the tables."""
        name = copies[0].name
        each = [lowering.values(copy) for copy in copies]
        self._lookups[name] = lowering, list(each[0])
        node = self._graph[name]
        category = category_of(node, self._graph.roles[name])
        for key in each[0]:
            table = np.stack([values[key] for values in each])
            is_scale = node.binary and key == "filter_scale"
            self.tables.add(
                f"{name}/{key}", table, Category.FILTER_SCALES if is_scale else category
            )

    def _head(self) -> keras.layers.Layer:
        """The layer that makes the logits."""
        heads = [name for name, role in self._graph.roles.items() if role is Role.HEAD]
        if not heads:
            raise EnsembleError(
                "The network has no layer with a kernel that makes its logits, whose weights could "
                'be int8: convert with heads="float32".'
            )
        return self._network.get_layer(heads[0])

    def _lowering(self, copies: Sequence[keras.layers.Layer]) -> Lowering:
        """How the members' copies of a layer are computed."""
        layer = copies[0]
        if layer is self._int8_head:
            return int8_lowering_of(copies)
        lowering = lowering_of(copies)
        if lowering is None or not all(map(_is_called_plainly, copies)):
            return AnyLayerLowering()
        if type(lowering) is BatchNormalizationLowering:
            # After a PReLU members' thresholds may be too far apart for a few bits per value.
            threshold = ThresholdLowering.of(copies, through_prelu=self._precision == "float32")
            if threshold is not None:
                self._note_threshold(threshold, layer)
                return threshold
        return lowering

    def _note_threshold(self, lowering: ThresholdLowering, norm: keras.layers.Layer) -> None:
        self.rewrites["threshold_norms"] += 1
        prelu = prelu_before(norm) if lowering.behind_prelu else None
        if prelu is not None:
            self.rewrites["threshold_prelus"] += 1
            self._within_thresholds.add(prelu.name)

    def _logits(self, image: tf.Tensor, member: tf.Tensor) -> dict[str, tf.Tensor]:
        index = tf.reshape(member, [])
        rows = self.tables.rows(index)
        zero = tf.minimum(index, 0)

        def call(layer: keras.layers.Layer, args: Any, kwargs: Any) -> Any:
            if layer.name in self._within_thresholds:
                return args[0]
            if layer.name in self._lookups:
                lowering, names = self._lookups[layer.name]
                own = {name: rows[f"{layer.name}/{name}"] for name in names}
                if isinstance(lowering, AnyLayerLowering):
                    args, kwargs = with_training(layer, args, kwargs, False)
                    return lowering.call(layer, args, kwargs, own)
                return lowering.apply(layer, args[0], own)
            if layer is self._int8_head:
                shared = {name: hidden(value, zero) for name, value in self._shared_head.items()}
                return int8_lowering_of([layer]).apply(layer, args[0], shared)
            if is_miscomputed(layer, args[0]):
                return one_padded(layer, args[0], zero)
            if is_padding(layer):
                return padded_in_two_steps(layer, args, kwargs)
            if type(layer) is keras.layers.RandomCrop:
                return cropped(layer, args[0])
            args, kwargs = with_hidden_maps(layer, args, kwargs, zero)
            return called(layer, args, kwargs, training=False)

        network = self._network
        known = {network.inputs[0].ref(): self._normalization(image)}
        with right_ternary(network), quantized_constants(self.variables):
            (logits,) = run_functional(network.layers, known, network.outputs, call)
        return {"logits": logits}


def _is_called_plainly(layer: keras.layers.Layer) -> bool:
    """Whether all calls of a layer have one tensor and nothing else that matters in inference."""
    return all(
        len(node.keras_inputs) == len(node.call_args) == 1
        and all(value is None or value is False for value in node.call_kwargs.values())
        for node in layer.inbound_nodes
    )


def _check_calls(network: keras.Model) -> None:
    """# Raises
    EnsembleError: if a layer trains where the network doesn't.
    """
    for layer in network.layers:
        for node in layer.inbound_nodes:
            if not node.is_input and training_of(layer, node.call_args, node.call_kwargs, False):
                raise EnsembleError(
                    f"The layer {layer.name!r} ({type(layer).__name__}) is called with "
                    "`training=True`, so it would train on each image that the file is given: to "
                    "convert the network, build it without."
                )


def image_shape(network: keras.Model) -> tuple[int, int, int]:
    """`(height, width, channels)` of the images that a network takes.

    # Raises
        EnsembleError: if its inputs are no such images, or of an unknown size.
    """
    shapes = {tuple(tensor.shape[1:]) for tensor in network.inputs}
    shape = next(iter(shapes))
    if len(shapes) != 1 or len(shape) != 3 or None in shape:
        raise EnsembleError(
            "Only networks with one input [n, height, width, channels] of known size can be "
            f"converted. Received: {[tuple(tensor.shape) for tensor in network.inputs]}."
        )
    return shape
