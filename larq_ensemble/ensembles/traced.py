"""Traced execution: one member is traced, whatever M.

Keras traces the graph of a training step branch by branch, which takes seconds per member before
the first step. But the branches are alike. So here one member is a `tf.function` of

    features     the output of the shared trunk, computed once
    shared       the values of the shared layers; their filters are binarized once per step
    own          the values of a member's own weights

and is called M times. Signs and PReLUs are fused, see
`larq_ensemble.ensembles.fused_activations`. Losses, gradients, batch norm statistics and Dropout
masks equal those of plain execution, except for the rounding of sums.

`Ensemble.compile` chooses it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from larq_ensemble.ensembles import fused_activations
from larq_ensemble.ensembles.bfloat16 import check_computes_bfloat16
from larq_ensemble.ensembles.fused_activations import cropped, fused_prelu, fused_sign, given
from larq_ensemble.ensembles.names import own_name
from larq_ensemble.ensembles.recomputation import has_losses_of_images
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.layers import Mirror
from larq_ensemble.models.copying import behaviour
from larq_ensemble.models.functional import (
    boundary,
    call_arguments,
    called,
    computes_as,
    draws,
    run_functional,
    training_of,
)
from larq_ensemble.models.graph import layer_graph

if TYPE_CHECKING:
    from larq_ensemble.ensembles.ensemble import Ensemble

#: Values of a layer's weights, by attribute name.
Values = dict[str, tf.Tensor]


class TracedMembers:
    """The members of an ensemble as calls of one function, or of two if some are frozen.

    # Arguments
        ensemble: the ensemble; which of its layers are trainable must not change afterwards.
        bfloat16: see `Ensemble.compile`.

    # Raises
        EnsembleError: if a layer can't be run in this way, with the reason.
    """

    def __init__(self, ensemble: Ensemble, *, bfloat16: bool) -> None:
        if has_losses_of_images(ensemble):
            raise EnsembleError("Layers add losses that depend on the images.")
        self._inputs = ensemble.inputs
        frozen: list[int] = []
        trained: list[int] = []
        for member in range(ensemble.members):
            trains = any(layer.trainable for layer in ensemble.own_layers(member))
            (trained if trains else frozen).append(member)
        groups = [
            _AlikeMembers(ensemble, members, bfloat16=bfloat16)
            for members in (frozen, trained)
            if members
        ]
        self._group_of = {member: group for group in groups for member in group.members}
        self._trunk = groups[0].trunk
        self._boundary = [*{x.ref(): x for group in groups for x in group.boundary}.values()]
        self.shared = groups[0].shared

    def logits(self, inputs: list[tf.Tensor], training: bool) -> list[tf.Tensor]:
        """The logits of every member, each [n, classes]; training updates batch norm, too."""
        shared = {name: _quantized(layer, _values(layer)) for name, layer in self.shared.items()}
        known = self._features(inputs[0], training) if len(inputs) == 1 else {}
        images, logits = tf.shape(inputs[0])[0], []
        for member, group in sorted(self._group_of.items()):
            if len(inputs) > 1:
                features = [inputs[member]]
            else:
                features = [known[tensor.ref()] for tensor in group.boundary]
            logits.append(group.logits(member, images, features, shared, training))
        return logits

    def _features(self, images: tf.Tensor, training: bool) -> dict[Any, tf.Tensor]:
        """The outputs of the shared trunk, by the symbolic tensors that they are the values of."""

        def call(layer: keras.layers.Layer, args: Any, kwargs: Any) -> Any:
            return called(layer, args, kwargs, training=training)

        known = {self._inputs[0].ref(): images}
        values = run_functional(self._trunk, known, self._boundary, call)
        return {tensor.ref(): value for tensor, value in zip(self._boundary, values)}


class _AlikeMembers:
    """Members as calls of one function.

    The function runs the layers of the first of them with given values in place of their weights.

    # Arguments
        members: their numbers; all or none of them are frozen.
        ensemble, bfloat16: as for `TracedMembers`.

    # Attributes
        trunk: the layers of the shared trunk.
        boundary: what the members take from there, symbolic tensors.
        shared: the other layers with weights that all members share.
    """

    def __init__(self, ensemble: Ensemble, members: list[int], *, bfloat16: bool) -> None:
        self.members = members
        self._bfloat16 = bfloat16
        network = ensemble.member(members[0])
        prefix = own_name(members[0], "")
        own = {layer.name for layer in network.layers if layer.name.startswith(prefix)}
        alone = len(ensemble.inputs) > 1
        trunk = frozenset() if alone else layer_graph(network).independent_of(own)
        self.trunk = [layer for layer in network.layers if layer.name in trunk]
        self._rest = [layer for layer in network.layers if layer.name not in trunk]
        self.boundary = boundary(network, self.trunk, self._rest)
        self._output = network.outputs[0]
        self.shared = {
            layer.name: layer for layer in self._rest if layer.weights and layer.name not in own
        }
        for layer in network.layers:
            _check_dtype(layer)
        for layer in self._rest:
            _check(layer, own=layer.name in own)

        def copies(layers: Iterable[keras.layers.Layer]) -> dict[str, list[Any]]:
            """All members' copies of own layers, by the first one's name."""
            names = [layer.name for layer in layers if layer.name in own]
            return {
                name: [
                    ensemble.get_layer(own_name(member, name.removeprefix(prefix)))
                    for member in members
                ]
                for name in names
            }

        self._own = copies(layer for layer in self._rest if layer.weights)
        self._drawing = copies(filter(draws, self._rest))
        _check_alike(copies(self._rest))
        self._functions = {
            training: tf.function(functools.partial(self._member, training), autograph=False)
            for training in (False, True)
        }

    def logits(
        self,
        member: int,
        images: tf.Tensor,
        features: list[tf.Tensor],
        shared: dict[str, Values],
        training: bool,
    ) -> tf.Tensor:
        """A member's logits [n, classes]; training updates its batch norm, too.

        # Arguments
            images: their number, n.
            features: the values of `boundary`.
            shared: those that the layers of `shared` compute with.
        """
        place = self.members.index(member)
        own = {name: _values(copies[place]) for name, copies in self._own.items()}
        noise = self._noise(place, images) if training else {}
        output, statistics = self._functions[training](features, shared, own, noise)
        for name, values in statistics.items():
            for attribute, value in values.items():
                getattr(self._own[name][place], attribute).assign(value)
        return output

    def _noise(self, place: int, images: tf.Tensor) -> Values:
        """Uniform draws from 0 to 1 of a member's Dropout layers, by their own generators."""
        return {
            name: copies[place]._random_generator._generator.uniform(
                [images, *copies[place].input_shape[1:]]
            )
            for name, copies in self._drawing.items()
        }

    def _member(
        self,
        training: bool,
        features: list[tf.Tensor],
        shared: dict[str, Values],
        own: dict[str, Values],
        noise: Values,
    ) -> tuple[tf.Tensor, dict[str, Values]]:
        """One member's logits, and the new moving statistics of its batch norms."""
        statistics: dict[str, Values] = {}
        frozen = tf.nest.map_structure(tf.stop_gradient, shared)
        #: Outputs of convolutions that still have to be multiplied by these scales.
        unscaled: dict[Any, tf.Tensor] = {}

        def scaled(x: Any) -> Any:
            scale = unscaled.get(x.ref()) if isinstance(x, tf.Tensor) else None
            return x if scale is None else fused_activations.scaled(x, scale)

        def call(layer: keras.layers.Layer, args: Any, kwargs: Any) -> Any:
            values = frozen.get(layer.name) or _quantized(layer, own.get(layer.name, {}))
            trains = training_of(layer, args, kwargs, training)
            prelu = fused_prelu(layer) if trains else None
            if prelu is not None:
                scale = unscaled.get(args[0].ref(), tf.ones(()))
                return prelu(args[0], values["alpha"], scale)
            args = tf.nest.map_structure(scaled, args)
            if trains and (crop := cropped(layer)) is not None:
                return crop(args[0])
            if trains and isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
                outputs, statistics[layer.name] = _normalized(layer, args[0], values)
                return outputs
            if layer.name in noise and trains:
                return tf.nn.experimental.general_dropout(
                    args[0], layer.rate, uniform_sampler=lambda *_, **__: noise[layer.name]
                )
            sign = fused_sign(layer) if trains else None
            if sign is not None:
                values = {**values, "input_quantizer": None}
                if self._bfloat16 and layer.name in frozen and _is_plain_binary_conv(layer):
                    values["kernel"], scale = _signs_and_scale(values["kernel"])
                    with given(layer, values):
                        # Not by `layer(...)`, which would cast to float32.
                        outputs = layer.call(sign(args[0], tf.bfloat16))
                    unscaled[outputs.ref()] = scale
                    return outputs
                args = (sign(args[0]), *args[1:])
            with given(layer, values):
                return called(layer, args, kwargs, training=training)

        known = {tensor.ref(): value for tensor, value in zip(self.boundary, features)}
        (logits,) = run_functional(self._rest, known, [self._output], call)
        return logits, statistics


def check_bfloat16(traced: TracedMembers) -> None:
    """# Raises
    EnsembleError: if no layer can run in bfloat16, or this machine can't compute in it.
    """
    if not can_run_in_bfloat16(traced.shared.values()):
        raise EnsembleError(
            "`bfloat16` is for frozen binary convolutions that all members share (QuantConv2D "
            "with binarized inputs and filters, without bias and activation), and this ensemble "
            "has none: leave it out."
        )
    check_computes_bfloat16()


def can_run_in_bfloat16(layers: Iterable[keras.layers.Layer]) -> bool:
    """Whether any of the layers can, if members share it."""
    return any(map(_is_plain_binary_conv, layers))


def _is_plain_binary_conv(layer: keras.layers.Layer) -> bool:
    return (
        type(layer) is lq.layers.QuantConv2D
        and fused_sign(layer) is not None
        and getattr(layer.kernel_quantizer, "precision", None) == 1
        and not layer.use_bias
        and layer.activation is keras.activations.linear
    )


def _signs_and_scale(kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Binarized filters [h, w, in, out] as signs, bfloat16, times scales [out], float32."""
    one = tf.ones((), tf.bfloat16)
    return tf.where(kernel >= 0, one, -one), tf.reduce_max(tf.abs(kernel), axis=[0, 1, 2])


def _check(layer: keras.layers.Layer, *, own: bool) -> None:
    """# Raises
    EnsembleError: if the layer can't run with given values in place of its weights.
    """

    def refuse(why: str) -> NoReturn:
        raise EnsembleError(f"The layer {layer.name!r} ({type(layer).__name__}) {why}.")

    norm = isinstance(layer, keras.layers.BatchNormalization)
    calls = call_arguments(layer)
    if layer.trainable_weights and not own:
        refuse("is shared, but not frozen")
    if len(_attributes(layer)) != len(layer.weights):
        refuse("holds weights that are none of its attributes")
    changes = not norm and not isinstance(layer, Mirror)
    if changes and any(not weight.trainable for weight in layer.weights):
        refuse("has a state")
    if norm and layer.trainable and not _is_fused(layer):
        refuse("does not compute fused batch normalization")
    if draws(layer) and not (
        type(layer) is keras.layers.Dropout
        and layer.noise_shape is None
        and getattr(layer._random_generator, "_generator", None) is not None
    ):
        refuse("draws random numbers that can't be drawn outside it")
    if draws(layer) and any(call.get("training") for call in calls):
        refuse("is called with `training=True`")
    if norm and any({*call} - {"training"} for call in calls):
        refuse("is called with `mask`")
    if any(_is_masked(tensor) for node in layer.inbound_nodes for tensor in node.keras_inputs):
        refuse("takes a mask")
    if getattr(layer, "_metrics", ()):
        refuse("adds metrics")
    if draws(layer) and None in layer.input_shape[1:]:
        refuse("draws for images whose size is unknown")
    if own and (norm or draws(layer)) and len(layer.inbound_nodes) > 1:
        refuse("is called more than once")


def _check_dtype(layer: keras.layers.Layer) -> None:
    """# Raises
    EnsembleError: if the layer computes in something other than float32, as fused activations do.
    """
    if not isinstance(layer, keras.layers.InputLayer) and layer.compute_dtype != "float32":
        raise EnsembleError(
            f"The layer {layer.name!r} ({type(layer).__name__}) computes in "
            f"{layer.compute_dtype}, not in float32."
        )


def _check_alike(copies: dict[str, list[keras.layers.Layer]]) -> None:
    """# Raises
    EnsembleError: if a layer of a member differs from that of the first in more than its weights.
    """

    def what_it_does(layer: keras.layers.Layer) -> dict[str, Any]:
        return {**behaviour(layer), "on": layer.trainable}

    for first, *others in copies.values():
        expected = what_it_does(first)
        for layer in others:
            if what_it_does(layer) != expected:
                raise EnsembleError(
                    f"The layer {layer.name!r} ({type(layer).__name__}) is frozen or configured "
                    f"otherwise than {first.name!r}."
                )


def _attributes(layer: keras.layers.Layer) -> dict[str, tf.Variable]:
    """The weights of a layer, by attribute name."""
    weights = {id(weight) for weight in layer.weights}
    return {name: value for name, value in vars(layer).items() if id(value) in weights}


def _values(layer: keras.layers.Layer) -> Values:
    """The values of a layer's weights; of quantized weights the latent ones."""
    return {name: tf.convert_to_tensor(value) for name, value in _attributes(layer).items()}


def _quantized(layer: keras.layers.Layer, values: Values) -> Values:
    """The values that the layer computes with: quantized where it has a quantizer."""
    quantizers: dict[str, Any] = {
        name: getattr(weight, "quantizer", None) for name, weight in _attributes(layer).items()
    }
    return {
        name: value if quantizers[name] is None else quantizers[name](value)
        for name, value in values.items()
    }


def _is_masked(tensor: Any) -> bool:
    return getattr(tensor, "_keras_mask", None) is not None


def _is_fused(norm: keras.layers.BatchNormalization) -> bool:
    last = norm.input_spec.ndim == 4 and list(norm.axis) == [3]
    plain = computes_as(norm, keras.layers.BatchNormalization)
    return (
        plain and last and bool(norm.fused) and not norm.renorm and norm.virtual_batch_size is None
    )


def _normalized(
    layer: keras.layers.BatchNormalization, x: tf.Tensor, values: Values
) -> tuple[tf.Tensor, Values]:
    """Batch normalization in training: the outputs, and the new moving statistics."""
    channels = [x.shape[-1]]
    outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
        x,
        values["gamma"] if layer.scale else tf.ones(channels),
        values["beta"] if layer.center else tf.zeros(channels),
        epsilon=layer.epsilon,
        is_training=True,
    )
    batch = {"moving_mean": mean, "moving_variance": variance}
    return outputs, {
        name: values[name] * layer.momentum + value * (1 - layer.momentum)
        for name, value in batch.items()
    }
