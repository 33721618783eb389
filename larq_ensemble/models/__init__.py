"""Keras models: backbones by name, and the layer graph of any model.

```python
from larq_ensemble.models import build_model

model = build_model("resnet20", input_shape=(32, 32, 3), classes=100)
```
"""

from __future__ import annotations

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
from larq_ensemble.network.architectures import REVISION, architecture, check_input_shape

__all__ = ["PRELU_GRADIENT", "Binarize", "PReLUGradient", "build_model", "layer_graph"]


def build_model(
    name: str,
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    dropout: float = 0.0,
    pad_values: float | None = None,
    estimator: str | None = None,
    binarize: Binarize = "all",
    prelu_gradient: PReLUGradient = PRELU_GRADIENT,
    revision: int = REVISION,
) -> keras.Model:
    """Builds a backbone.

    # Arguments
        name: of `larq_ensemble.network.architectures.MODELS`, such as `"resnet20"` or its
            real-valued twin `"resnet20_real"`.
        input_shape: (height, width, channels) of normalized float32 images.
        classes: number of logits.
        width: multiplies the channels of every stage.
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

    # Returns
        A functional Keras model: float32 [n, height, width, channels] -> logits [n, classes].

    # Raises
        UnknownNameError: for a name that is not registered.
        EnsembleError: for sizes that no network can have.
    """
    network = architecture(name, revision)
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
    logits = network.apply(layers, image, classes=classes, dropout=dropout, width=width)
    return keras.Model(image, logits, name=name)
