"""Runs converted ensembles; needs neither TensorFlow nor Keras.

```python
from larq_ensemble.runtime import EnsembleInterpreter, calibrate
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from larq_ensemble.runtime.interpreter import EnsembleInterpreter

if TYPE_CHECKING:
    from larq_ensemble.runtime.calibration import calibrate as calibrate

__all__ = ["EnsembleInterpreter", "calibrate"]


def __getattr__(name: str) -> Any:
    # Few apps calibrate, and this keeps the start-up of the others short.
    if name == "calibrate":
        from larq_ensemble.runtime.calibration import calibrate

        return calibrate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
