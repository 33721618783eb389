"""Backbones: functional Keras models whose layers members can share or own.

A model inside a model would be one layer there, to be shared as a whole or not at all. So the
layers of a model inside take its place.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import check_keras_2, keras, tf
from larq_ensemble.models.copying import copied_layer
from larq_ensemble.models.functional import arguments, input_list, run_functional

#: `call(layer, args, kwargs)` stands for `layer(*args, **kwargs)`.
Call = Callable[[keras.layers.Layer, Any, Any], Any]


def functional_model(model: Any) -> keras.Model:
    """Checks that a model can become an ensemble, and brings it into one form.

    A sequential model becomes functional. Models inside a model are flattened: their layers take
    their place, as copies with the same weights and the name `{model}_{layer}`. A `training` that
    the model inside is called with is passed on to its layers, as Keras does.

    # Returns
        A functional model. It has the layers of `model` themselves, or, if there are models
        inside, copies of all layers.

    # Raises
        EnsembleError: if it isn't a functional or built sequential Keras 2 model with one input
            and one output, or if a model inside is neither.
    """
    check_keras_2(backbone=model)
    if not isinstance(model, keras.Model):
        raise EnsembleError(
            f"`backbone` must be a tf.keras (Keras 2) model, got {type(model).__name__}."
        )
    if not _has_layer_graph(model):
        raise EnsembleError(
            f"The model {model.name!r} is not a functional Keras model but of the class "
            f"{type(model).__name__}: its layer graph can't be read. Build it with "
            "keras.Model(inputs, outputs)."
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        inputs, outputs = (
            f"{len(names)} {what} ({', '.join(map(repr, names))})"
            for names, what in ((model.input_names, "inputs"), (model.output_names, "outputs"))
        )
        raise EnsembleError(
            f"The model {model.name!r} has {inputs} and {outputs}: a backbone has one of each. Of "
            "several outputs take the logits, with keras.Model(model.input, logits)."
        )
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs, model.outputs, name=model.name)
    return _flattened(model) if any(map(_is_model, model.layers)) else model


def _flattened(model: keras.Model) -> keras.Model:
    names = _flat_names(model)

    def run(inner: keras.Model, inputs: Any, training: Any, copy: Call) -> Any:
        """The outputs of a model inside."""

        def call(layer: keras.layers.Layer, args: Any, kwargs: Any) -> Any:
            given = arguments(layer, args, kwargs).get("training")
            if given is None and training is not None and layer._expects_training_arg:
                kwargs = {**kwargs, "training": training}
            return expand(layer, args, kwargs, copy)

        known = dict(zip((symbol.ref() for symbol in inner.inputs), input_list(inner, inputs)))
        outputs = run_functional(inner.layers, known, inner.outputs, call)
        return tf.nest.pack_sequence_as(inner.output, outputs)

    def expand(layer: keras.layers.Layer, args: Any, kwargs: Any, copy: Call) -> Any:
        if not _is_model(layer):
            return copy(layer, args, kwargs)
        training = arguments(layer, args, kwargs).get("training")
        return run(layer, args[0], training, copy)

    return rewired(model, expand, names)


def rewired(
    model: keras.Model,
    call: Callable[[keras.layers.Layer, Any, Any, Call], Any],
    names: Mapping[int, str] | None = None,
    first: Callable[[Any], Any] | None = None,
) -> keras.Model:
    """The same network on copies of its layers, where other layers may stand in for some.

    A layer without weights that can't be copied is called itself.

    # Arguments
        model: functional, with one input and one output.
        call: `call(layer, args, kwargs, copy)` is what stands for a call of a layer; where it
            stays as it is, `copy(layer, args, kwargs)`.
        names: of the copies, by the `id` of the layer; `None`: as they are.
        first: a layer that the image goes through before all others; `None`: there is none.
    """
    copies: dict[int, keras.layers.Layer] = {}

    def copied(layer: keras.layers.Layer) -> keras.layers.Layer:
        if id(layer) not in copies:
            name = layer.name if names is None else names[id(layer)]
            try:
                copies[id(layer)] = copied_layer(layer, name=name)
            except EnsembleError:
                if layer.weights or name != layer.name:
                    raise
                copies[id(layer)] = layer
        return copies[id(layer)]

    def copy(layer: keras.layers.Layer, args: Any, kwargs: Any) -> Any:
        return copied(layer)(*args, **kwargs)

    (image,) = model.inputs
    given = copied(image.node.layer).output
    known = {image.ref(): given if first is None else first(given)}
    outputs = run_functional(
        model.layers,
        known,
        model.outputs,
        lambda layer, args, kwargs: call(layer, args, kwargs, copy),
    )
    originals = {id(layer): layer for layer in _all_layers(model)}
    for key, new in copies.items():
        if new.weights:
            new.set_weights(originals[key].get_weights())
    return keras.Model(given, outputs, name=model.name)


def _flat_names(model: keras.Model) -> dict[int, str]:
    """A name for each layer of a model and of those inside it, by the `id` of the layer.

    # Raises
        EnsembleError: if a model inside has no layer graph.
    """
    names = {id(layer): layer.name for layer in model.layers if not _is_model(layer)}
    taken = {*names.values()}

    def add(inner: keras.Model, prefix: str) -> None:
        if not _has_layer_graph(inner):
            raise EnsembleError(
                f"The model {model.name!r} contains the model {inner.name!r} as a layer, which is "
                "not a functional Keras model but of the class "
                f"{type(inner).__name__}: build it with keras.Model(inputs, outputs), so that each "
                "of its layers can be shared or not."
            )
        for layer in inner.layers:
            if _is_model(layer):
                add(layer, f"{prefix}{layer.name}_")
            elif id(layer) not in names and not isinstance(layer, keras.layers.InputLayer):
                name = free_name(f"{prefix}{layer.name}", taken)
                names[id(layer)] = name
                taken.add(name)

    for layer in model.layers:
        if _is_model(layer):
            add(layer, f"{layer.name}_")
    return names


def free_name(wanted: str, taken: Collection[str]) -> str:
    """A name that no layer has: as wanted, or with the first number behind it that is free."""
    numbered = (f"{wanted}_{number}" for number in itertools.count(1))
    return next(name for name in itertools.chain([wanted], numbered) if name not in taken)


def _all_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers of a model and of those inside it."""
    for layer in model.layers:
        if _is_model(layer):
            yield from _all_layers(layer)
        else:
            yield layer


def _is_model(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.Model)


def _has_layer_graph(model: keras.Model) -> bool:
    """Whether calling a model is calling its layers as its graph says."""
    own_call = any("call" in vars(kind) for kind in _kinds_before_keras(model))
    return model._is_graph_network and not own_call


def _kinds_before_keras(model: keras.Model) -> Iterator[type]:
    """The classes of a model that derive from those of Keras."""
    for kind in type(model).__mro__:
        if kind.__module__.startswith(keras.Model.__module__.split(".")[0]):
            return
        yield kind
