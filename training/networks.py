"""The network that `pretrain` trains: one of ours, or another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from larq_ensemble.data.datasets import Dataset
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras
from larq_ensemble.models import PRELU_GRADIENT, Binarize, PReLUGradient, build_model
from larq_ensemble.models.foreign import foreign_network, is_foreign
from larq_ensemble.network.architectures import MODELS, REVISION
from larq_ensemble.training.fit import keep_random_states
from larq_ensemble.training.recipes import Recipe


@dataclass(frozen=True)
class Variant:
    """Arguments of an architecture of ours, as for `larq_ensemble.training.pretrain.pretrain`."""

    width: float = 1.0
    pad_values: float | None = None
    estimator: str | None = None
    binarize: Binarize = "all"
    prelu_gradient: PReLUGradient | None = None


def network_for(
    network: str | keras.Model,
    dataset: Dataset,
    recipe: Recipe,
    variant: Variant,
    started: dict[str, Any],
) -> tuple[keras.Model, dict[str, Any]]:
    """The network to train and what its run records of it.

    # Arguments
        network: `model` of `pretrain`.
        dataset: whose images and classes it is for.
        recipe: has the dropout.
        variant: of a network of ours.
        started: what the run to resume recorded of its network; empty: there is none.

    # Raises
        EnsembleError: for what the network hasn't, or if it can't be built for the data.
    """
    if not is_foreign(network):
        return _ours(network, dataset, recipe, variant, started)
    for name, value in vars(variant).items():
        if value != getattr(Variant, name):
            raise EnsembleError(
                f"`{name}` {value!r} is for the networks that larq-ensemble builds: leave it out, "
                "and build yours with it."
            )
    model, record = foreign_network(
        network, input_shape=dataset.input_shape, classes=dataset.classes
    )
    _set_dropout(model, recipe.dropout)
    keep_random_states(model)
    if recipe.epochs and not model.trainable_weights:
        raise EnsembleError(
            f"`model` {model.name!r} has nothing to train, because all of its layers have "
            "`trainable=False`: change that, or keep it as it is with `epochs=0`."
        )
    return model, record


def _ours(
    name: Any, dataset: Dataset, recipe: Recipe, variant: Variant, started: dict[str, Any]
) -> tuple[keras.Model, dict[str, Any]]:
    architecture, pad_values = MODELS[name], variant.pad_values
    for option in ("pad_values", "estimator"):
        value = getattr(variant, option)
        if value is not None and not architecture.binary:
            raise EnsembleError(
                f"`{option}` {value!r} is for binary convolutions, and {name!r} has none: "
                "leave it out."
            )
    arguments: dict[str, Any] = {
        "name": name,
        "input_shape": list(dataset.input_shape),
        "classes": dataset.classes,
        "width": variant.width,
        "dropout": recipe.dropout or 0.0,
        "pad_values": architecture.pad_values if pad_values is None else pad_values,
        "estimator": variant.estimator,
        "prelu_gradient": variant.prelu_gradient or started.get("prelu_gradient", PRELU_GRADIENT),
        "revision": started.get("revision", REVISION),
        # Only if not the default: older runs lack it.
        **({"binarize": variant.binarize} if variant.binarize != "all" else {}),
    }
    return build_model(**arguments), arguments


def _set_dropout(model: keras.Model, rate: float | None) -> None:
    """Sets the rate of the network's own Dropout layers; `None`: they keep theirs."""
    if rate is None:
        return
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    if rate and not layers:
        raise EnsembleError(
            f"`dropout` {rate} has no effect: the network has no Dropout layer. Leave it out, or "
            "give the network one."
        )
    for layer in layers:
        layer.rate = rate
