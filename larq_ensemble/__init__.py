"""Shared-filter ensembles of binarized neural networks, from Keras `fit` to one `.tflite` file.

Names are imported when they are first used, so that `larq_ensemble.runtime`, which needs no
TensorFlow, stays light. Importing the package makes `tf.keras` Keras 2, which Larq needs, unless
the environment has TF_USE_LEGACY_KERAS=0, and has TensorFlow compute with oneDNN, unless it is
imported before or the environment has TF_ENABLE_ONEDNN_OPTS=0.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from larq_ensemble.tensorflow_start import choose_keras_2, is_undecided, prefer_onednn

__version__ = "0.1.0"

if is_undecided():
    choose_keras_2()
prefer_onednn()

if TYPE_CHECKING:
    from larq_ensemble.data.datasets import Dataset
    from larq_ensemble.data.normalization import Normalization
    from larq_ensemble.data.opening import open_dataset
    from larq_ensemble.data.options import ImageOptions
    from larq_ensemble.ensembles import (
        Ensemble,
        build_ensemble,
        ensemble_of,
        fit_members,
        fused_network,
        load_ensemble,
    )
    from larq_ensemble.errors import EnsembleError
    from larq_ensemble.models import build_model, layer_graph
    from larq_ensemble.network.compute import count_macs
    from larq_ensemble.network.storage import account
    from larq_ensemble.runs import load_run
    from larq_ensemble.runtime import EnsembleInterpreter

#: Public name -> the module that has it.
_EXPORTS = {
    "Dataset": "data.datasets",
    "Ensemble": "ensembles",
    "EnsembleError": "errors",
    "EnsembleInterpreter": "runtime",
    "ImageOptions": "data.options",
    "Normalization": "data.normalization",
    "account": "network.storage",
    "build_ensemble": "ensembles",
    "build_model": "models",
    "count_macs": "network.compute",
    "ensemble_of": "ensembles",
    "fit_members": "ensembles",
    "fused_network": "ensembles",
    "layer_graph": "models",
    "load_ensemble": "ensembles",
    "load_run": "runs",
    "open_dataset": "data.opening",
}

# Written out for type checkers and editors; a test compares it with the table above.
__all__ = [
    "Dataset",
    "Ensemble",
    "EnsembleError",
    "EnsembleInterpreter",
    "ImageOptions",
    "Normalization",
    "__version__",
    "account",
    "build_ensemble",
    "build_model",
    "count_macs",
    "ensemble_of",
    "fit_members",
    "fused_network",
    "layer_graph",
    "load_ensemble",
    "load_run",
    "open_dataset",
]

if not TYPE_CHECKING:  # so that a type checker sees that a name is misspelt

    def __getattr__(name: str) -> Any:
        if name not in _EXPORTS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
