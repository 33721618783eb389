"""Runs converted ensembles; needs neither TensorFlow nor Keras.

```python
from larq_ensemble.runtime import EnsembleInterpreter, calibrate, read_images
```
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from larq_ensemble.runtime.calibration import calibrate as calibrate
    from larq_ensemble.runtime.images import read_image as read_image
    from larq_ensemble.runtime.images import read_images as read_images
    from larq_ensemble.runtime.interpreter import EnsembleInterpreter as EnsembleInterpreter
    from larq_ensemble.runtime.power import PowerPolicy as PowerPolicy
    from larq_ensemble.runtime.power import stored_energy_nj as stored_energy_nj

__all__ = [
    "EnsembleInterpreter",
    "PowerPolicy",
    "calibrate",
    "read_image",
    "read_images",
    "stored_energy_nj",
]

#: Imported when they are used: few apps calibrate, with a camera none reads image files, and a
#: command's help needs none of them.
_LATE = {
    "EnsembleInterpreter": "interpreter",
    "PowerPolicy": "power",
    "calibrate": "calibration",
    "read_image": "images",
    "read_images": "images",
    "stored_energy_nj": "power",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATE[name]}"), name)
