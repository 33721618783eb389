r"""Multiply-accumulates (MACs) of a network for one image.

\\[ \text{MACs} = \sum_{\text{layers}} \text{output positions} \cdot \text{kernel weights} \\]

over convolutions and dense layers; of a transposed convolution, the input positions count. Batch
norm, activations and additions are not counted.

```python
from larq_ensemble.network.architectures import trace_model
from larq_ensemble.network.compute import count_macs

count_macs(trace_model("resnet20", classes=10)).total  # 40,813,184
```
"""

from __future__ import annotations

from dataclasses import dataclass

from larq_ensemble.errors import EnsembleError
from larq_ensemble.network.graph import LayerGraph


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one network for one image.

    # Arguments
        binary: with binary filters; Larq Compute Engine computes them by XNOR and popcount.
        real: with real-valued weights.
    """

    binary: int
    real: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.binary + self.real


def count_macs(graph: LayerGraph) -> Macs:
    """Counts the multiply-accumulates of one network for one image.

    # Arguments
        graph: of `larq_ensemble.network.architectures.trace_model`, or of a Keras model by
            `larq_ensemble.models.layer_graph`. For an ensemble, give the graph of one member: m
            members compute m times as much.

    # Raises
        EnsembleError: if the network takes images of any size.
    """
    counts = {True: 0, False: 0}
    for layer in graph:
        if layer.macs is None:
            raise EnsembleError(
                f"The image size of layer {layer.name!r} is unknown, so its multiply-accumulates "
                "can't be counted: build the model with a fixed input shape."
            )
        counts[layer.binary] += layer.macs
    return Macs(binary=counts[True], real=counts[False])
