r"""What a network computes for one image: multiply-accumulates (MACs) of its linear operations.

\\[ \text{MACs} = \sum_{\text{layers}} \text{output positions} \cdot \text{kernel weights} \\]

for convolutions and dense layers; batch norm, activations and additions are not counted.

```python
from larq_ensemble.network.compute import count_macs

count_macs(build_model("resnet20", input_shape=(32, 32, 3), classes=10)).total  # 40,813,184
```
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from larq_ensemble.keras import keras
from larq_ensemble.models.functional import layer_graph
from larq_ensemble.network.graph import Kind


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one network for one image.

    # Arguments
        binary: with binary filters, which Larq Compute Engine does as XNOR and popcount.
        real: with real-valued weights.
    """

    binary: int
    real: int

    @property
    def total(self) -> int:
        return self.binary + self.real


def count_macs(model: keras.Model) -> Macs:
    """Counts the multiply-accumulates of a functional model, for one image.

    # Arguments
        model: a network with one output, channels last. Of an ensemble, count one member
            (`Ensemble.member`): the ensemble takes m times as much with m members.
    """
    counts = {True: 0, False: 0}
    calls = {layer["name"]: len(layer["inbound_nodes"]) for layer in model.get_config()["layers"]}
    for node in layer_graph(model):
        if node.kind not in (Kind.CONV, Kind.DENSE):
            continue
        layer = model.get_layer(node.name)
        positions = math.prod(layer.get_output_shape_at(0)[1:-1])
        # Biases and the thresholds of quantizers have one axis, kernels more.
        weights = sum(math.prod(weight.shape) for weight in layer.weights if len(weight.shape) > 1)
        counts[node.binary] += calls[node.name] * positions * weights
    return Macs(binary=counts[True], real=counts[False])
