"""Loading saved ensembles."""

from __future__ import annotations

import os
from pathlib import Path

from larq_ensemble.ensembles.ensemble import Ensemble, as_ensemble
from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.keras import keras


def load_ensemble(path: str | os.PathLike[str], *, compile: bool = True) -> Ensemble:
    """Loads an ensemble that Keras saved.

    # Arguments
        path: a `.keras` or `.h5` file or a SavedModel that `Ensemble.save` or `ModelCheckpoint`
            wrote, or a run directory of `larq-ensemble train`. In a run of an earlier version
            the ensemble has no normalization; `load_run(path).model` takes it from the run.
        compile: whether to compile the ensemble as it was saved, with the optimizer's state. One
            that was saved without, as in run directories, is compiled with the losses and metrics
            of its scheme and Keras's default optimizer, so `evaluate` works.

    # Raises
        EnsembleError: if there is no ensemble at `path`, or the file is damaged.
    """
    file = Path(path)
    if file.is_dir() and not (file / "saved_model.pb").is_file():
        file /= "model.keras"
    if not file.is_file() and not file.is_dir():
        raise EnsembleError(
            f"No ensemble at {str(path)!r}: give a .keras or .h5 file, or the directory of a run "
            "that has finished."
        )
    try:
        model = keras.models.load_model(file, compile=compile)
    except Exception as error:  # zip, HDF5 and Keras each raise errors of their own.
        raise EnsembleError(
            f"{str(file)!r} can't be read ({first_line(error)}): it is damaged, or no Keras model."
        ) from error
    ensemble = as_ensemble(model)
    if compile and ensemble.optimizer is None:
        ensemble.compile()
    return ensemble
