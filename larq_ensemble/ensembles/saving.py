"""Loading saved ensembles, and those that come with the package."""

from __future__ import annotations

import os
from pathlib import Path

from larq_ensemble.ensembles.ensemble import Ensemble, as_ensemble
from larq_ensemble.ensembles.stored import stored_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.models.keras_files import load_keras_file
from larq_ensemble.pretrained.catalog import Shipped, found, names, shipped
from larq_ensemble.pretrained.weights import StoredWeights


def load_ensemble(
    path: str | os.PathLike[str], *, compile: bool = True, safe_mode: bool = True
) -> Ensemble:
    """Loads an ensemble that Keras saved, or one that comes with the package.

    # Arguments
        path: a `.keras` or `.h5` file or a SavedModel that `Ensemble.save` or `ModelCheckpoint`
            wrote, or a run directory of `larq-ensemble train`. In a run of an earlier version
            the ensemble has no normalization; `load_run(path).model` takes it from the run. Or the
            name of an ensemble of `larq_ensemble.pretrained`, if nothing is at this path.
        compile: whether to compile the ensemble as it was saved, with the optimizer's state. One
            that was saved without, as in run directories, is compiled with the losses and metrics
            of its scheme and Keras's default optimizer, so `evaluate` works.
        safe_mode: as for `keras.models.load_model`: `False` runs code that a file has, as with a
            `Lambda` layer. Only for files that you trust.

    # Raises
        EnsembleError: if there is no ensemble at `path`, or as
            `larq_ensemble.models.keras_files.load_keras_file`.
    """
    if (network := found(path)) is not None:
        ensemble = stored_ensemble(_weights_of_ensemble(network))
        if compile:
            ensemble.compile()
        return ensemble
    file = Path(path)
    if file.is_dir() and not (file / "saved_model.pb").is_file():
        file /= "model.keras"
    if not file.is_file() and not file.is_dir():
        raise EnsembleError(
            f"No ensemble at {str(path)!r}: give a .keras or .h5 file, the directory of a run "
            f"that has finished, or the name of one that is shipped: {', '.join(_ensembles())}."
        )
    ensemble = as_ensemble(load_keras_file(file, compile=compile, safe_mode=safe_mode))
    if compile and ensemble.optimizer is None:
        ensemble.compile()
    return ensemble


def _ensembles() -> list[str]:
    """The names of the ensembles of the package."""
    return [name for name in names() if shipped(name).card["members"] > 1]


def _weights_of_ensemble(network: Shipped) -> StoredWeights:
    if network.name not in _ensembles():
        raise EnsembleError(
            f"{network.name!r} is a single network: `build_model({network.card['model']['name']!r},"
            f" weights={network.name!r})` makes it. Ensembles: {', '.join(_ensembles())}."
        )
    return network.weights
