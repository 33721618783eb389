"""The namespace of layers that architectures take as an argument, with the names of Keras and Larq.

Apart from that argument an architecture reads like Keras code:

```python
x = layers.QuantConv2D(filters, 3, strides=strides, name=f"{name}_conv1")(x)
x = layers.BatchNormalization(name=f"{name}_bn1")(x)
x = layers.Add(name=f"{name}_add")([x, shortcut])
```

`larq_ensemble.models.keras_layers.KerasLayers` holds the Keras and Larq layers and builds a model.
`larq_ensemble.network.tracing.TracedLayers` records a layer graph without TensorFlow. `Layers` is
the protocol of both, with the defaults that differ from Keras's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar


class Tensor(Protocol):
    """The input and output of a layer: a Keras tensor or a traced one."""

    @property
    def shape(self) -> Any:
        """`(None, height, width, channels)`, or `(None, channels)` after pooling."""


Value = TypeVar("Value", bound=Tensor)
Layer = Callable[[Value], Value]


class Layers(Protocol[Value]):
    """Keras's and Larq's layers with the defaults that all architectures have in common.

    A real-valued twin is the same function with layers that binarize nothing: `QuantConv2D` is
    `Conv2D`, and `RSign` is the identity.
    """

    @property
    def binary(self) -> bool:
        """`False` in a real-valued twin."""

    def Conv2D(
        self, filters: int, kernel_size: int, *, strides: int = 1, name: str
    ) -> Layer[Value]:
        """`keras.layers.Conv2D` without bias, padded to the same size, initialized by He."""

    def QuantConv2D(
        self,
        filters: int,
        kernel_size: int,
        *,
        strides: int = 1,
        input_quantizer: Any = ...,
        name: str,
    ) -> Layer[Value]:
        """`larq.layers.QuantConv2D` without bias, padded to the same size.

        sign(x) convolved with mean(|W|) sign(W). After `RSign`, which binarizes, it takes
        `input_quantizer=None`.
        """

    def BatchNormalization(self, *, gamma_constraint: Any = None, name: str) -> Layer[Value]:
        """`keras.layers.BatchNormalization` with momentum 0.9 and epsilon 1e-5."""

    def PReLU(self, *, shared_axes: Sequence[int], name: str) -> Layer[Value]:
        """`keras.layers.PReLU`, whose slopes start at 0.25."""

    def RSign(self, *, name: str) -> Layer[Value]:
        """`larq_ensemble.layers.RSign`."""

    def RPReLU(self, *, name: str) -> Layer[Value]:
        """`larq_ensemble.layers.RPReLU`."""

    def Cropping2D(
        self, cropping: tuple[tuple[int, int], tuple[int, int]], *, name: str
    ) -> Layer[Value]:
        """`keras.layers.Cropping2D`: `((top, bottom), (left, right))`."""

    def Activation(self, activation: str, *, name: str) -> Layer[Value]:
        """`keras.layers.Activation`."""

    def Add(self, *, name: str) -> Callable[[Sequence[Value]], Value]:
        """`keras.layers.Add`."""

    def Concatenate(self, *, name: str) -> Callable[[Sequence[Value]], Value]:
        """`keras.layers.Concatenate`, of channels."""

    def AveragePooling2D(self, pool_size: int, *, name: str) -> Layer[Value]:
        """`keras.layers.AveragePooling2D`; windows are padded, and a padded value doesn't count."""

    def GlobalAveragePooling2D(self, *, name: str) -> Layer[Value]:
        """`keras.layers.GlobalAveragePooling2D`."""

    def Dropout(self, rate: float, *, name: str) -> Layer[Value]:
        """`keras.layers.Dropout`."""

    def Dense(self, units: int, *, name: str) -> Layer[Value]:
        """`keras.layers.Dense`, with bias."""
