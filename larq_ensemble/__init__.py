"""Shared-filter ensembles of binarized neural networks, from Keras `fit` to one `.tflite` file.

Names are imported when they are first used, so that `larq_ensemble.runtime`, which needs no
TensorFlow, stays light.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Any

__version__ = "0.1.0"

# Larq needs Keras 2. A process without tf-keras runs converted files only: leave it alone.
if "tensorflow" not in sys.modules and importlib.util.find_spec("tf_keras"):
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

_EXPORTS = {
    "EnsembleError": "errors",
    "EnsembleInterpreter": "runtime",
    "EnsembleView": "ensembles.building",
    "account": "network.storage",
    "build_ensemble": "ensembles.building",
    "build_model": "models",
    "compile_arguments": "ensembles.building",
    "load_run": "runs",
    "one_pass_network": "ensembles.fused_activations",
    "recompute_members": "ensembles.recomputation",
    "trace_members_once": "ensembles.traced",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
