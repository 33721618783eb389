"""Keras models: backbones by name, and the layer graph of any model.

```python
from larq_ensemble.models import build_model

model = build_model("resnet20", input_shape=(32, 32, 3), classes=100)
trained = build_model("deploynet8", weights="cifar100")
```
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from larq_ensemble.errors import EnsembleError, is_number
from larq_ensemble.keras import keras
from larq_ensemble.models.graph import layer_graph
from larq_ensemble.models.keras_layers import (
    PRELU_GRADIENT,
    PRELUS,
    Binarize,
    KerasLayers,
    PReLUGradient,
)
from larq_ensemble.models.stored_weights import layers_of, restore
from larq_ensemble.network.architectures import REVISION, architecture, check_input_shape
from larq_ensemble.pretrained.catalog import backbone_of

__all__ = ["PRELU_GRADIENT", "Binarize", "PReLUGradient", "build_model", "layer_graph"]


def build_model(
    name: str,
    *,
    input_shape: tuple[int, int, int] | None = None,
    classes: int | None = None,
    width: float | None = None,
    dropout: float = 0.0,
    pad_values: float | None = None,
    estimator: str | None = None,
    binarize: Binarize = "all",
    prelu_gradient: PReLUGradient = PRELU_GRADIENT,
    revision: int | None = None,
    weights: str | None = None,
) -> keras.Model:
    """Builds a backbone, untrained or with the weights of one that comes with the package.

    # Arguments
        name: of `larq_ensemble.network.architectures.MODELS`, such as `"resnet20"` or its
            real-valued twin `"resnet20_real"`.
        input_shape: (height, width, channels) of normalized float32 images.
        classes: number of logits.
        width: multiplies the channels of every stage. `None`: 1.
        dropout: rate before the linear layer (the paper: 0.5 for 100 classes).
        pad_values: what pads the inputs of binary convolutions: 0, or 1, with which Larq Compute
            Engine can write bit-packed outputs. `None`: the network's default, which is 0 as in
            the paper, but 1 in DeployNet.
        estimator: input quantizer of binary convolutions: `"ste_sign"` (the clipped
            straight-through estimator; the paper's, Eq. 5) or `"approx_sign"` (a piecewise
            quadratic approximation of the gradient, Liu et al. 2018). `None`: the network's
            default, which is `"ste_sign"`, but `"approx_sign"` in ReActNet, whose RSign has no
            other gradient.
        binarize: `"all"`: activations and filters of binary convolutions; `"activations"`: their
            filters are real-valued, for the first of two stages of training. Such a network is
            there to start the other from, see `larq_ensemble.training.transfer.start_from_real`.
        prelu_gradient: what the gradient of a PReLU is multiplied by where its input is exactly 0,
            as 4 to 7 % of the inputs behind binary convolutions are: `"slope"`, as in PyTorch and
            so in the paper's code, see `larq_ensemble.layers.PReLU`, or `"zero"`, as in Keras.
        revision: of the network; 1 for that of runs before the networks had the stem and the
            shortcuts of the original, see `larq_ensemble.network.architectures.architecture`.
            `None`: the current one.
        weights: the data that a network of the package of this `width` was trained on, such as
            `"cifar100"`, or its name, see `larq_ensemble.pretrained`, or that of an ensemble which
            keeps it as its first member. `input_shape`, `classes`, `pad_values`, `revision`, and
            with a name `width`, are those of its training then, so they can be left out, and images
            are normalized by `larq_ensemble.trained.open_trained(NAME).normalization`. `None`:
            random weights.

    # Returns
        A functional Keras model: float32 [n, height, width, channels] -> logits [n, classes].

    # Raises
        UnknownNameError: for a name that is not registered.
        EnsembleError: for sizes that no network can have, for weights that there are not, or
            arguments that contradict them.
    """
    network = architecture(name, REVISION if revision is None else revision)
    if weights is not None:
        return _trained(
            name,
            weights,
            {
                "input_shape": input_shape,
                "classes": classes,
                "width": width,
                "pad_values": pad_values,
                "binarize": None if binarize == "all" else binarize,
                "revision": revision,
            },
            {"dropout": dropout, "estimator": estimator, "prelu_gradient": prelu_gradient},
        )
    if classes is None or input_shape is None:
        raise EnsembleError(
            "`input_shape` and `classes` are needed: only `weights` of a trained network say them."
        )
    input_shape = check_input_shape(input_shape)
    if pad_values is None:
        pad_values = network.pad_values
    if pad_values not in (0, 1):
        raise EnsembleError(
            f"`pad_values` must be 0 or 1, got {pad_values}: a binarized input is padded with "
            "zeros or with ones."
        )
    if not is_number(dropout) or not 0 <= dropout < 1:
        raise EnsembleError(f"`dropout` must be at least 0 and below 1, got {dropout!r}.")
    estimator = estimator or network.estimators[0]
    if estimator not in network.estimators:
        raise EnsembleError(
            f"`estimator` must be {' or '.join(map(repr, network.estimators))} in {name!r}, "
            f"got {estimator!r}."
        )
    if binarize not in ("all", "activations"):
        raise EnsembleError(f"`binarize` must be 'all' or 'activations', got {binarize!r}.")
    if binarize == "activations" and not network.binary:
        raise EnsembleError(
            f"`binarize` 'activations' is for networks with binary convolutions, and {name!r} has "
            "none: leave it out."
        )
    if prelu_gradient not in PRELUS:
        raise EnsembleError(
            f"`prelu_gradient` must be {' or '.join(map(repr, PRELUS))}, got {prelu_gradient!r}."
        )
    image = keras.Input(input_shape, name="image")
    layers = KerasLayers(
        binary=network.binary,
        pad_values=pad_values,
        estimator=estimator,
        binarize=binarize,
        prelu_gradient=prelu_gradient,
    )
    width = 1.0 if width is None else width
    logits = network.apply(layers, image, classes=classes, dropout=dropout, width=width)
    return keras.Model(image, logits, name=name)


def _trained(
    name: str, weights: str, given: Mapping[str, Any], free: Mapping[str, Any]
) -> keras.Model:
    """A backbone of the package.

    # Arguments
        name, weights: as for `build_model`.
        given: arguments that are those of its training, `None`: left out.
        free: arguments that weights don't depend on.
    """
    if given["width"] is not None and not is_number(given["width"]):
        raise EnsembleError(f"`width` must be a number, got {given['width']!r}.")
    shipped = backbone_of(name, weights, given["width"])
    stored = shipped.weights.single()
    assert stored is not None
    model = stored.config["model"]
    defaults = {"pad_values": architecture(name).pad_values, "binarize": "all"}
    for argument, value in given.items():
        trained = model.get(argument)
        if trained is None:
            trained = defaults[argument]
        if value is not None and _plain(value) != _plain(trained):
            of = "" if weights == shipped.name else f", the network {shipped.name!r}"
            others = (
                " To go on from its weights with other classes or images, `pretrain` with "
                f"`from_backbone={shipped.name!r}`."
            )
            raise EnsembleError(
                f"`{argument}` {value!r} contradicts `weights` {weights!r}{of}, which has "
                f"{trained!r}: leave it out."
                f"{others if argument in ('classes', 'input_shape') else ''}"
            )
    network = build_model(**{**model, **free})
    restore(layers_of(network), stored)
    return network


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    return [*value] if isinstance(value, tuple) else value
