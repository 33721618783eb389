"""Architectures by name.

```python
from larq_ensemble.models import build_model

model = build_model("resnet20", input_shape=(32, 32, 3), classes=100)
```
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from larq_ensemble.errors import EnsembleError
from larq_ensemble.graph import LayerGraph
from larq_ensemble.models.birealnet import bireal_block
from larq_ensemble.models.deploynet import deploy_block
from larq_ensemble.models.reactnet import react_block
from larq_ensemble.models.resnet import Block, residual_block, resnet
from larq_ensemble.models.size_tracer import SizeTracer
from larq_ensemble.models.vocabulary import Layers, Value
from larq_ensemble.registry import Registry

if TYPE_CHECKING:
    from larq_ensemble.keras import keras


@dataclass(frozen=True)
class Architecture:
    """A named network.

    # Arguments
        block: what its stages consist of, in the vocabulary of `models.vocabulary`.
        stages: channels of each stage at width 1.
        blocks: how many blocks each stage has.
        estimators: the gradients its signs can have, the default first.
        stem: kernel size and stride of the first convolution.
        pad_values: what pads the inputs of its binary convolutions unless told otherwise.
        binary: `False` for a real-valued twin.
    """

    block: Block
    stages: tuple[int, ...]
    blocks: tuple[int, ...]
    estimators: tuple[str, ...] = ("ste_sign", "approx_sign")
    stem: tuple[int, int] = (3, 1)
    pad_values: float = 0.0
    binary: bool = True

    def apply(
        self, layers: Layers[Value], x: Value, *, classes: int, dropout: float, width: float
    ) -> Value:
        """The logits of image `x`; the channels of every stage are multiplied by `width`."""
        if classes < 2:
            raise EnsembleError(f"`classes` must be at least 2, got {classes}.")
        stages = tuple(round(channels * width) for channels in self.stages)
        if min(stages) < 1:
            raise EnsembleError(
                f"`width` {width} leaves a stage without channels (at width 1 they are "
                f"{self.stages}): choose a larger one."
            )
        return resnet(
            layers,
            x,
            classes=classes,
            dropout=dropout,
            stages=stages,
            blocks=self.blocks,
            block=self.block,
            stem=self.stem,
        )


_WIDE = (64, 128, 256, 512)
_NARROW = (16, 32, 64)

MODELS: Registry[Architecture] = Registry("model")

for _name, _architecture in {
    "resnet18": Architecture(residual_block, _WIDE, (2, 2, 2, 2)),
    "resnet20": Architecture(residual_block, _NARROW, (3, 3, 3)),
    "resnet32": Architecture(residual_block, _NARROW, (5, 5, 5)),
    "resnet34": Architecture(residual_block, _WIDE, (3, 4, 6, 3)),
    "birealnet18": Architecture(bireal_block, _WIDE, (2, 2, 2, 2)),
    "birealnet34": Architecture(bireal_block, _WIDE, (3, 4, 6, 3)),
    # RSign's gradient is approx_sign, whatever is asked for.
    "reactnet10": Architecture(react_block, _WIDE, (1, 1, 1, 1), estimators=("approx_sign",)),
    "deploynet9": Architecture(deploy_block, (64, 64), (3, 4), stem=(4, 2), pad_values=1.0),
}.items():
    MODELS.register(_name, _architecture)
    MODELS.register(f"{_name}_real", replace(_architecture, binary=False))


def build_model(
    name: str,
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    dropout: float = 0.0,
    pad_values: float | None = None,
    estimator: str | None = None,
) -> keras.Model:
    """Builds a backbone.

    # Arguments
        name: one of `MODELS`, for example `"resnet20"` or its real-valued twin `"resnet20_real"`.
        input_shape: (height, width, channels) of normalized float32 images.
        classes: number of logits.
        width: multiplies the channels of every stage.
        dropout: rate before the linear layer (the paper: 0.5 for 100 classes).
        pad_values: what pads the inputs of binary convolutions: 0 or 1, which lets Larq Compute
            Engine write bit-packed outputs. `None`: the network's own, which is 0 as in the
            paper, but 1 in DeployNet.
        estimator: the gradient of the sign of activations: `"ste_sign"` (the clipped
            straight-through estimator; the paper's, Eq. 5) or `"approx_sign"` (a piecewise
            quadratic approximation, Liu et al. 2018). `None`: the network's own, which is
            `"ste_sign"`, but `"approx_sign"` in ReActNet, whose RSign has no other.

    # Returns
        A functional Keras model: float32 [n, height, width, channels] -> logits [n, classes].

    # Raises
        UnknownNameError: for a name that is not registered.
        EnsembleError: for sizes that no network can have.
    """
    from larq_ensemble.keras import keras
    from larq_ensemble.models.keras_layers import KerasLayers

    architecture = MODELS[name]
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise EnsembleError(
            f"`input_shape` must be three positive sizes (height, width, channels), got "
            f"{tuple(input_shape)}."
        )
    if pad_values is None:
        pad_values = architecture.pad_values
    if pad_values not in (0, 1):
        raise EnsembleError(
            f"`pad_values` must be 0 or 1, got {pad_values}: a binarized input is padded with "
            "zeros or with ones."
        )
    if not 0 <= dropout < 1:
        raise EnsembleError(f"`dropout` must be at least 0 and below 1, got {dropout}.")
    estimator = estimator or architecture.estimators[0]
    if estimator not in architecture.estimators:
        raise EnsembleError(
            f"`estimator` must be {' or '.join(map(repr, architecture.estimators))} in {name!r}, "
            f"got {estimator!r}."
        )
    image = keras.Input(tuple(input_shape), name="image")
    layers = KerasLayers(binary=architecture.binary, pad_values=pad_values, estimator=estimator)
    logits = architecture.apply(layers, image, classes=classes, dropout=dropout, width=width)
    return keras.Model(image, logits, name=name)


def trace_model(name: str, *, channels: int = 3, classes: int, width: float = 1.0) -> LayerGraph:
    """The layers of a backbone with what each stores, without building weights.

    Needs no TensorFlow. Arguments as in `build_model`; `channels` are the image's.
    """
    architecture = MODELS[name]
    tracer = SizeTracer(binary=architecture.binary)
    architecture.apply(tracer, tracer.input(channels), classes=classes, dropout=0.0, width=width)
    return tracer.graph
