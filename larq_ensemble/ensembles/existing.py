"""Ensembles of networks that were trained before, each by itself.

```python
ensemble = ensemble_of([first, second, third])
ensemble.save("ensemble.keras")
```
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from larq_ensemble.data.normalization import Normalization
from larq_ensemble.ensembles.building import (
    Branches,
    assembled,
    check_adds_nothing,
    check_is_no_ensemble,
    checked_weights,
    reverse_columns,
)
from larq_ensemble.ensembles.ensemble import Ensemble
from larq_ensemble.ensembles.schemes import SCHEMES
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import check_keras_2, keras, tf
from larq_ensemble.models.classifier import classifier, with_mirror
from larq_ensemble.models.copying import behaviour, by_value
from larq_ensemble.models.graph import network_calls
from larq_ensemble.models.weights import check_weights

#: The end of the errors for what is no model.
_BY_NAME = " `build_model(NETWORK, weights=NAME)` makes a network that comes with the package."


def ensemble_of(
    models: Sequence[keras.Model],
    *,
    scheme: str = "voting",
    mirror: bool = False,
    weights: Sequence[float] | None = None,
    normalization: Normalization | None = None,
) -> Ensemble:
    """Makes an ensemble of M networks of one architecture that were trained before.

    Members share, frozen, each layer that computes with equal weights in all models, to the bit.
    Of quantized weights the quantized values count: two binary filters of the same signs (and
    scales, if they have any) are equal, whatever their latent weights, of which the ensemble keeps
    those of the first model. Every other layer is each member's own.

    Networks that were trained from different initializations share nothing but layers without
    weights, and the file is about as large as M of them. Those that were trained on from one
    network, with layers frozen, share these.

    # Arguments
        models: the networks, as `backbone` of `build_ensemble`. They stay unchanged.
        scheme: how the members are combined, see `larq_ensemble.ensembles.schemes`; if the ensemble
            is trained on by `fit`, also how.
        mirror: each network twice: first all of them on the image as it is, then all on the
            mirrored one, so there are 2 M members, and one network alone averages both images. For
            images whose class doesn't change when they are mirrored. A converted file has equal
            values once, so it takes little more than without.
        weights, normalization: as for `build_ensemble`.

    # Returns
        An `Ensemble`, not compiled, whose layers are named after those of the first model.

    # Raises
        EnsembleError: for no models, for one that can't be a backbone, for models of different
            architectures, with the first difference, and for models that are equal.
    """
    if isinstance(models, (str, keras.Model)) or not isinstance(models, Sequence) or not models:
        raise EnsembleError(
            f"`models` must be a list of trained Keras models, got {models!r}.{_BY_NAME}"
        )
    SCHEMES[scheme]  # so that a wrong name is told at once
    if weights is not None:
        weights = checked_weights(weights, len(models) * (2 if mirror else 1))
    networks = []
    for number, model in enumerate(models):
        _check_is_model(model, number)
        check_is_no_ensemble(model)
        check_adds_nothing(model)
        networks.append(classifier(model))
        check_weights(networks[-1])
    first, *others = networks
    for number, network in enumerate(others, start=1):
        _check_alike(first, network, number)
    shared = _equal_layers(networks)
    is_one = all(layer.name in shared for layer in first.layers if layer.weights)
    if is_one and not (mirror and len(networks) == 1):
        raise EnsembleError(
            "`models` compute with the same weights, so an ensemble of them would be one of them: "
            "give others, or one with `mirror`."
        )
    if mirror:
        networks = [with_mirror(network) for network in networks]
        first = networks[0]
        networks += networks
    branches = Branches.of(first, range(len(networks)), shared)
    for member, network in enumerate(networks):
        sources = dict(zip((layer.name for layer in first.layers), network.layers))
        for name, layer in branches.own[member].items():
            layer.set_weights(sources[name].get_weights())
        if member >= len(models):
            reverse_columns(branches.own[member].values())
    return assembled(branches, scheme, weights=weights, normalization=normalization)


def _check_is_model(model: Any, number: int) -> None:
    check_keras_2(models=model)
    if not isinstance(model, keras.Model):
        raise EnsembleError(
            f"`models` must be a list of trained tf.keras (Keras 2) models, but model {number} is "
            f"{model!r}.{_BY_NAME}"
        )


def _equal_layers(networks: Sequence[keras.Model]) -> frozenset[str]:
    """The first network's layers with weights that compute with the same in all networks."""
    return frozenset(
        layer.name
        for layer, *others in zip(*(network.layers for network in networks))
        if layer.weights
        and all(
            value.tobytes() == same.tobytes()
            for other in others
            for value, same in zip(_computed_with(layer), _computed_with(other))
        )
    )


def _computed_with(layer: keras.layers.Layer) -> list[np.ndarray]:
    """The values of a layer's weights, quantized where the layer quantizes them."""
    quantizers = [getattr(weight, "quantizer", None) for weight in layer.weights]
    return [
        value if quantizer is None else quantizer(tf.constant(value)).numpy()
        for value, quantizer in zip(layer.get_weights(), quantizers)
    ]


def _check_alike(first: keras.Model, other: keras.Model, number: int) -> None:
    """# Raises
    EnsembleError: if a network has another architecture than the first, with the difference.
    """
    different = f"`models` must have one architecture, but model {number} differs from model 0: "
    for (layer, expected), (same, found) in zip(_described(first), _described(other)):
        for what, value in expected.items():
            if found.get(what) != value:
                texts = (f"{what} = {found.get(what)}", f"{what} = {value}")
                if what == "functions":
                    texts = ("functions", "others")
                raise EnsembleError(
                    f"{different}its layer {same!r} has {texts[0]}, but {layer!r} has {texts[1]}."
                )
    if len(first.layers) != len(other.layers):
        raise EnsembleError(
            f"{different}it has {len(other.layers)} layers, not {len(first.layers)}."
        )


def _described(network: keras.Model) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each layer's name, and what it is, does and takes, without the names of layers."""
    numbers = {layer.name: number for number, layer in enumerate(network.layers)}
    calls = network_calls(network)

    def argument(value: Any) -> str:
        if hasattr(value, "_keras_history"):
            source, _, output = value._keras_history
            call = calls[source.name].index(value.node)
            return f"output {output} of call {call} of layer {numbers[source.name]}"
        return str(by_value(value))

    for layer in network.layers:
        description = {
            "type": type(layer).__name__,
            **behaviour(layer),
            "weights": [tuple(weight.shape) for weight in layer.weights],
            "inputs": [
                tf.nest.map_structure(argument, (node.call_args, node.call_kwargs))
                for node in calls[layer.name]
            ],
        }
        yield layer.name, description
