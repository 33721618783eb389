"""Architectures by name, as data and as functions of `larq_ensemble.network.layers.Layers`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

from larq_ensemble.errors import EnsembleError, check_whole, is_number
from larq_ensemble.network.architectures.birealnet import bireal_block, bireal_stem
from larq_ensemble.network.architectures.deploynet import deploy_block
from larq_ensemble.network.architectures.plain import plain_block, plain_layer
from larq_ensemble.network.architectures.reactnet import react_block
from larq_ensemble.network.architectures.resnet import (
    Block,
    Stem,
    norm_stem,
    relu_stem,
    residual_block,
    resnet,
)
from larq_ensemble.network.graph import LayerGraph
from larq_ensemble.network.layers import Layers, Value
from larq_ensemble.network.tracing import TracedLayers
from larq_ensemble.registry import Registry


@dataclass(frozen=True)
class Architecture:
    """A named network.

    # Arguments
        block: adds one block of a stage.
        stages: channels of each stage at width 1.
        blocks: number of blocks of each stage.
        estimators: input quantizers that its binary convolutions can have, the default first.
        stem: adds what follows the first convolution.
        stem_conv: kernel size and stride of the first convolution.
        pad_values: default padding value of binary convolutions.
        binary: `False` for a real-valued twin, or a network that is no twin.
        repeating: whether shortcuts repeat channels, so that those of each stage are a multiple of
            those of the first at any width.
    """

    block: Block
    stages: tuple[int, ...]
    blocks: tuple[int, ...]
    estimators: tuple[str, ...] = ("ste_sign", "approx_sign")
    stem: Stem = relu_stem
    stem_conv: tuple[int, int] = (3, 1)
    pad_values: float = 0.0
    binary: bool = True
    repeating: bool = False

    def apply(
        self, layers: Layers[Value], x: Value, *, classes: int, dropout: float, width: float
    ) -> Value:
        """Builds the network on the image `x`.

        # Arguments
            layers: the namespace of layers.
            x: the image.
            classes: number of logits, at least 2.
            dropout: rate before the linear layer.
            width: multiplies the channels of every stage. With `repeating` it multiplies those of
                the first, and the others keep their ratio to it.

        # Returns
            The logits.

        # Raises
            EnsembleError: for fewer than two classes, or a stage without channels.
        """
        classes = check_whole("classes", classes, 2)
        if not is_number(width) or width <= 0:
            raise EnsembleError(f"`width` must be a number above 0, got {width!r}.")
        first = round(self.stages[0] * width)
        stages = tuple(
            round((first / self.stages[0] if self.repeating else width) * channels)
            for channels in self.stages
        )
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
            stem_conv=self.stem_conv,
        )


_WIDE = (64, 128, 256, 512)
_NARROW = (16, 32, 64)
_DEPLOY8 = (64, 128), (2, 4)
_DEPLOY9 = (64, 64), (3, 4)

MODELS: Registry[Architecture] = Registry("model")

for _name, _architecture in {
    "resnet18": Architecture(residual_block, _WIDE, (2, 2, 2, 2)),
    "resnet20": Architecture(residual_block, _NARROW, (3, 3, 3)),
    "resnet32": Architecture(residual_block, _NARROW, (5, 5, 5)),
    "resnet34": Architecture(residual_block, _WIDE, (3, 4, 6, 3)),
    "birealnet18": Architecture(bireal_block, _WIDE, (2, 2, 2, 2), stem=bireal_stem),
    "birealnet34": Architecture(bireal_block, _WIDE, (3, 4, 6, 3), stem=bireal_stem),
    "reactnet10": Architecture(
        react_block,
        _WIDE,
        (1, 1, 1, 1),
        estimators=("approx_sign",),  # RSign has no other gradient
        stem=norm_stem,
    ),
    "deploynet8": Architecture(
        deploy_block, *_DEPLOY8, stem=norm_stem, stem_conv=(4, 2), pad_values=1.0, repeating=True
    ),
    "deploynet9": Architecture(
        deploy_block, *_DEPLOY9, stem=norm_stem, stem_conv=(4, 2), pad_values=1.0, repeating=True
    ),
}.items():
    MODELS.register(_name, _architecture)
    MODELS.register(f"{_name}_real", replace(_architecture, binary=False))

# Of the same convolutions as the twins, but as real-valued networks usually are.
MODELS.register(
    "resnet20_relu", Architecture(plain_block, _NARROW, (3, 3, 3), stem=relu_stem, binary=False)
)
for _name, _layers in {"deploynet8_relu": _DEPLOY8, "deploynet9_relu": _DEPLOY9}.items():
    MODELS.register(
        _name,
        Architecture(
            plain_layer, *_layers, stem=relu_stem, stem_conv=(4, 2), binary=False, repeating=True
        ),
    )

#: The current revision of the networks. Revision 1, before networks had the ReLU and the shortcuts
#: of the original, is kept for the runs that were trained with it.
REVISION = 2


def architecture(name: str, revision: int = REVISION) -> Architecture:
    """A network as a revision of this package has it.

    # Arguments
        name: one of `MODELS`.
        revision: 2, the network of its source; 1, as before: no ReLU in the stem, and shortcuts
            with strides read the pixel before the centre of the 3x3 convolution beside them.

    # Raises
        UnknownNameError: for a name that is not registered.
        EnsembleError: for another revision.
    """
    current = MODELS[name]
    if revision == REVISION:
        return current
    if revision != 1:
        raise EnsembleError(
            f"`revision` must be 1 or {REVISION}, got {revision!r}: a later version of "
            "larq-ensemble may know it."
        )
    block = partial(residual_block, centred=False)
    return replace(
        current,
        block=block if current.block is residual_block else current.block,
        stem=norm_stem,
    )


def check_input_shape(input_shape: object) -> tuple[int, int, int]:
    """# Raises
    EnsembleError: if these are not three positive sizes.
    """
    sizes = [*input_shape] if isinstance(input_shape, Iterable) else []
    wrong = EnsembleError(
        "`input_shape` must be three positive sizes (height, width, channels), got "
        f"{tuple(sizes) if sizes else input_shape!r}."
    )
    try:
        height, width, channels = (check_whole("input_shape", size, 1) for size in sizes)
    except ValueError:  # too few, too many, or one that is no size
        raise wrong from None
    return height, width, channels


def trace_model(
    name: str,
    *,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    classes: int,
    width: float = 1.0,
    revision: int = REVISION,
) -> LayerGraph:
    """The layer graph of a backbone, without building it: needs no TensorFlow.

    It equals `larq_ensemble.models.layer_graph(build_model(name, ...))`, except for the name of the
    input.

    # Arguments
        name: one of `MODELS`.
        input_shape: (height, width, channels) of the images. Only multiply-accumulates depend on
            height and width.
        classes: number of logits.
        width: multiplies the channels of every stage.
        revision: as for `architecture`.

    # Raises
        UnknownNameError: for a name that is not registered.
        EnsembleError: for sizes that no network can have, or an unknown revision.
    """
    network = architecture(name, revision)
    layers = TracedLayers(binary=network.binary)
    image = layers.Input(check_input_shape(input_shape))
    network.apply(layers, image, classes=classes, dropout=0.0, width=width)
    return layers.graph
