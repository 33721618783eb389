"""Architectures by name.

```python
from larq_ensemble.models import build_model

model = build_model("resnet20", input_shape=(32, 32, 3), classes=100)
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from larq_ensemble.errors import EnsembleError
from larq_ensemble.graph import LayerGraph
from larq_ensemble.models.resnet import resnet
from larq_ensemble.models.size_tracer import SizeTracer
from larq_ensemble.registry import Registry

if TYPE_CHECKING:
    from larq_ensemble.keras import keras


@dataclass(frozen=True)
class Architecture:
    """A named network.

    # Arguments
        apply: the function that describes it in the vocabulary of `models.vocabulary`.
        stages: channels of each stage at width 1.
        binary: `False` for a real-valued twin.
        options: further arguments of `apply`.
    """

    apply: Callable[..., Any]
    stages: tuple[int, ...]
    binary: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


MODELS: Registry[Architecture] = Registry("model")

for _name, _binary in (("resnet20", True), ("resnet20_real", False)):
    MODELS.register(
        _name, Architecture(resnet, (16, 32, 64), binary=_binary, options={"blocks": (3, 3, 3)})
    )


def build_model(
    name: str,
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    dropout: float = 0.0,
    pad_values: float = 0.0,
) -> keras.Model:
    """Builds a backbone.

    # Arguments
        name: one of `MODELS`, for example `"resnet20"` or its real-valued twin `"resnet20_real"`.
        input_shape: (height, width, channels) of normalized float32 images.
        classes: number of logits.
        width: multiplies the channels of every stage.
        dropout: rate before the linear layer (the paper: 0.5 for 100 classes).
        pad_values: what pads the inputs of binary convolutions: 0 (the paper's) or 1, which lets
            Larq Compute Engine write bit-packed outputs.

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
    if pad_values not in (0, 1):
        raise EnsembleError(
            f"`pad_values` must be 0 or 1, got {pad_values}: a binarized input is padded with "
            "zeros or with ones."
        )
    if not 0 <= dropout < 1:
        raise EnsembleError(f"`dropout` must be at least 0 and below 1, got {dropout}.")
    image = keras.Input(tuple(input_shape), name="image")
    layers = KerasLayers(binary=architecture.binary, pad_values=pad_values)
    logits = architecture.apply(
        layers,
        image,
        classes=_checked_classes(classes),
        dropout=dropout,
        stages=_scaled(architecture, width),
        **architecture.options,
    )
    return keras.Model(image, logits, name=name)


def trace_model(name: str, *, channels: int = 3, classes: int, width: float = 1.0) -> LayerGraph:
    """The layers of a backbone with what each stores, without building weights.

    Needs no TensorFlow. Arguments as in `build_model`; `channels` are the image's.
    """
    architecture = MODELS[name]
    tracer = SizeTracer(binary=architecture.binary)
    architecture.apply(
        tracer,
        tracer.input(channels),
        classes=_checked_classes(classes),
        dropout=0.0,
        stages=_scaled(architecture, width),
        **architecture.options,
    )
    return tracer.graph


def _checked_classes(classes: int) -> int:
    if classes < 2:
        raise EnsembleError(f"`classes` must be at least 2, got {classes}.")
    return classes


def _scaled(architecture: Architecture, width: float) -> tuple[int, ...]:
    stages = tuple(round(channels * width) for channels in architecture.stages)
    if min(stages) < 1:
        raise EnsembleError(
            f"`width` {width} leaves a stage without channels (at width 1 they are "
            f"{architecture.stages}): choose a larger one."
        )
    return stages
