"""Trained networks that come with the package, by name. Needs no TensorFlow.

```python
from larq_ensemble import pretrained

pretrained.names()  # such as "cifar100-resnet20"
network = pretrained.shipped(pretrained.names()[0])
network.card["accuracy"]["by_members"][-1]["top1"]
network.tflite  # the path of its .tflite file
```

`build_model(..., weights=)` and `load_ensemble(name)` make Keras models of them. Every command
takes a name where it takes a run, a Keras file or a `.tflite` file.
"""

from __future__ import annotations

from larq_ensemble.pretrained.catalog import Shipped, found, names, shipped, tflite_path

__all__ = ["Shipped", "found", "names", "shipped", "tflite_path"]
