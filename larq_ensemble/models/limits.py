"""What is known not to convert before a network is trained.

Larq Compute Engine's converter and interpreter decide in the end
(`larq_ensemble.convert.check_convertible` tries both). But they take seconds to load, and aren't
installed where networks are only trained. So what they can't do is told here as far as the layers'
arguments say it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.models.functional import is_operator

_ACTIVATIONS = {
    keras.activations.gelu: "gelu",
    tf.nn.gelu: "gelu",
    keras.activations.softsign: "softsign",
    tf.nn.softsign: "softsign",
}


def warn_of_limits(model: keras.Model, *, stacklevel: int) -> None:
    """Warns once, with the layers, if a network is known not to convert.

    # Arguments
        model: a functional model.
        stacklevel: as for `warnings.warn`; 2 is the caller's line.
    """
    limits = list(conversion_limits(model))
    if limits:
        warnings.warn(
            f"The network can be trained but not converted: {'; '.join(limits)}. Before a long "
            "training, larq_ensemble.convert.check_convertible(model) tries the conversion.",
            stacklevel=stacklevel + 1,
        )


def conversion_limits(model: keras.Model) -> Iterator[str]:
    """Why a network won't convert, a reason for each layer; none if nothing is known against it."""
    for image in model.inputs:
        if len(image.shape) != 4 or None in image.shape[1:]:
            yield (
                f"its input has the shape {list(image.shape)}, but a file takes images [n, height, "
                "width, channels] of one size"
            )
    for layer in model.layers:
        activation = _ACTIVATIONS.get(getattr(layer, "activation", None)) or _operator(layer)
        if activation is not None:
            way_out = "; `tf.nn.gelu(x, approximate=True)` converts" if activation == "gelu" else ""
            yield f"the layer {layer.name!r} computes {activation}, which LCE can't run{way_out}"
        if _averages(getattr(layer, "input_quantizer", None)):
            yield (
                f"the input quantizer of the layer {layer.name!r} averages over all images of a "
                "batch, but a file gets one at a time"
            )


def _operator(layer: keras.layers.Layer) -> str | None:
    """An activation that is called as a function of TensorFlow."""
    if is_operator(layer, "nn.softsign"):
        return "softsign"
    is_exact = is_operator(layer, "nn.gelu") and not all(
        node.call_kwargs.get("approximate") for node in layer.inbound_nodes
    )
    return "gelu" if is_exact else None


def _averages(quantizer: object) -> bool:
    """Whether what a quantizer makes of a value depends on all others."""
    return (
        isinstance(quantizer, lq.quantizers.MagnitudeAwareSign)
        or (isinstance(quantizer, lq.quantizers.SteTern) and quantizer.ternary_weight_networks)
        or (isinstance(quantizer, lq.quantizers.DoReFa) and quantizer.mode == "weights")
    )
