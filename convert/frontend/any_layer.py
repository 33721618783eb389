"""The lowering of any layer: the layer itself, with looked-up weights in place of its own.

`larq_ensemble.convert.frontend.lowerings` has shorter forms of the layers that most networks
consist of. Where there is none, or a layer's arguments are none that it is for, this one computes
what Keras computes, by the layer's own `call`.

Filters that a quantizer binarizes are looked up as signs, which `passes.sign_packing` stores as
bits, and a scale for each channel of the output. Other quantized weights are looked up as the
floats that the layer computes with.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from larq_ensemble.convert.frontend.lowerings import (
    Lowering,
    Rows,
    Values,
    refuse,
    signs_and_scales,
)
from larq_ensemble.keras import keras, tf

_SIGNS, _SCALES = "/signs", "/scales"
_TRACKING = {"_trainable_weights", "_non_trainable_weights", "_obj_reference_counts_dict"}


class AnyLayerLowering(Lowering):
    """The layer's output by its own `call`, whatever the layer is."""

    def values(self, layer: keras.layers.Layer) -> Values:
        weights = _weights(layer)
        if len(weights) < len({id(weight) for weight in layer.weights}):
            refuse(
                layer,
                "it holds weights that are no attributes of it or of its parts, so those of a "
                "member can't be put in their place",
                "share it, or keep each weight as an attribute",
            )
        values: Values = {}
        for name, weight in weights.items():
            value = quantized(weight)
            binary = signs_and_scales(value) if hasattr(weight, "quantizer") else None
            if binary is None:
                values[name] = value
            else:
                signs, scales = binary
                # Flat, because each row of the last axis takes whole words of bits.
                values[name + _SIGNS] = signs.reshape(-1)
                values[name + _SCALES] = scales
        return values

    def apply(self, layer: keras.layers.Layer, x: tf.Tensor, rows: Rows) -> tf.Tensor:
        return self.call(layer, (x,), {}, rows)

    def call(self, layer: keras.layers.Layer, args: Any, kwargs: Any, rows: Rows) -> Any:
        """`layer(*args, **kwargs)` with one member's weights."""
        given = {
            id(weight): _looked_up(weight, name, rows) for name, weight in _weights(layer).items()
        }
        with contextlib.ExitStack() as stack:
            for owner in _parts(layer):
                stack.enter_context(_replaced(owner, given))
            return layer(*args, **kwargs)


def quantized(weight: tf.Variable) -> np.ndarray:
    """The values that a layer computes with: quantized where the weight has a quantizer."""
    with tf.init_scope():
        latent = tf.convert_to_tensor(weight)
        quantizer = getattr(weight, "quantizer", None)
        return (latent if quantizer is None else quantizer(latent)).numpy()


def _looked_up(weight: tf.Variable, name: str, rows: Rows) -> tf.Tensor:
    if name in rows:
        return rows[name]
    signs = tf.reshape(tf.cast(rows[name + _SIGNS], tf.float32), weight.shape)
    return signs * rows[name + _SCALES]


def _weights(layer: keras.layers.Layer) -> dict[str, tf.Variable]:
    """The weights that are attributes, by the same names in each member's copy of the layer."""
    own = {id(weight) for weight in layer.weights}
    found: dict[int, tuple[str, tf.Variable]] = {}
    for place, owner in enumerate(_parts(layer)):
        for attribute, value in _attributes(owner).items():
            for number, weight in enumerate(_held(value)):
                if id(weight) in own:
                    found.setdefault(id(weight), (f"{place}/{attribute}/{number}", weight))
    return dict(found.values())


def _parts(layer: keras.layers.Layer) -> list[Any]:
    """The layer and the layers in it."""
    return [layer, *layer.submodules]


def _attributes(owner: Any) -> dict[str, Any]:
    """The attributes of an object except those in which Keras keeps track of its weights."""
    return {
        name: value
        for name, value in vars(owner).items()
        if name not in _TRACKING and not name.startswith("_self_")
    }


def _held(value: Any) -> Iterator[Any]:
    """The variables among the attributes of an object, also within lists and dictionaries."""
    if isinstance(value, tf.Variable):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _held(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _held(item)


@contextlib.contextmanager
def _replaced(owner: Any, given: Mapping[int, tf.Tensor]) -> Iterator[None]:
    """Replaces weights among the attributes of a layer within the block.

    Not by `setattr`, or Keras would untrack the layer's weights.
    """

    def substitute(value: Any) -> Any:
        if id(value) in given:
            return given[id(value)]
        if not any(id(weight) in given for weight in _held(value)):
            return value
        if isinstance(value, Mapping):
            return {key: substitute(item) for key, item in value.items()}
        return [substitute(item) for item in value]

    attributes, before = vars(owner), _attributes(owner)
    attributes.update({name: substitute(value) for name, value in before.items()})
    try:
        yield
    finally:
        attributes.update(before)
