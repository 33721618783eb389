"""Ensembles whose weights are stored as those of the shipped networks, see
`larq_ensemble.pretrained.weights`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from larq_ensemble.data.normalization import Normalization
from larq_ensemble.ensembles.building import build_ensemble
from larq_ensemble.ensembles.ensemble import Ensemble, as_ensemble
from larq_ensemble.ensembles.names import own_name
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras
from larq_ensemble.models import build_model
from larq_ensemble.models.stored_weights import layers_of, restore, stored_arrays
from larq_ensemble.network.sharing import parse_sharing
from larq_ensemble.pretrained.weights import StoredWeights


def stored_weights(model: keras.Model, config: dict[str, Any], run_hash: str) -> StoredWeights:
    """The weights of a trained network, to be written by `write_weights`.

    # Arguments
        model: a backbone that `build_model` made, or an ensemble of one.
        config: the configuration of its run, as `RunConfig.to_json` gives it.
        run_hash: SHA-256 of the run's model.

    # Raises
        EnsembleError: for a network that `build_model` can't build, or an ensemble of more inputs
            than one.
    """
    if "source" in config["model"]:
        raise EnsembleError(
            f"The network {config['model']['name']!r} is not of `build_model`, which rebuilds it "
            "from its stored weights: save it as a Keras file."
        )
    if config["kind"] == "backbone":
        return StoredWeights(config, run_hash, stored_arrays(layers_of(model)))
    ensemble = as_ensemble(model)
    own = _own_layers(ensemble)
    return StoredWeights(
        config,
        run_hash,
        stored_arrays(_shared_layers(ensemble) | own),
        own=frozenset(own),
        member_weights=ensemble.member_weights,
    )


def stored_network(stored: StoredWeights) -> keras.Model:
    """The network of stored weights: a backbone, or an `Ensemble` as `build_ensemble` makes it.

    # Raises
        EnsembleError: if they are of another version of the package.
    """
    if stored.config["kind"] == "ensemble":
        return stored_ensemble(stored)
    network = build_model(**stored.config["model"])
    restore(layers_of(network), stored)
    return network


def stored_ensemble(stored: StoredWeights) -> Ensemble:
    """The ensemble of stored weights, not compiled; otherwise as `stored_network`."""
    config = stored.config
    options, data = config["ensemble"], config["dataset"]
    backbone = build_model(**config["model"])
    ensemble = build_ensemble(
        backbone,
        options["members"],
        sharing=parse_sharing(
            options["sharing"], own_head_bias=options.get("own_head_bias", False)
        ),
        scheme=options["scheme"],
        jitter=0.0,
        keep_pretrained=options.get("keep_pretrained", 0),
        mirror=options.get("mirror", False),
        weights=stored.member_weights,
        normalization=Normalization(data["mean"], data["std"]),
    )
    restore(_shared_layers(ensemble) | _own_layers(ensemble), stored)
    return ensemble


def _shared_layers(ensemble: Ensemble) -> dict[str, Any]:
    return {layer.name: layer for layer in ensemble.shared_layers()}


def _own_layers(ensemble: Ensemble) -> dict[str, Sequence[keras.layers.Layer]]:
    """The members' own layers by their names in the backbone."""
    of_members = [
        {layer.name.removeprefix(own_name(member, "")): layer for layer in layers}
        for member in range(ensemble.members)
        for layers in [ensemble.own_layers(member)]
    ]
    return {name: [own[name] for own in of_members] for name in of_members[0]}
