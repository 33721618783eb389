"""Loading saved ensembles."""

from __future__ import annotations

import os
from pathlib import Path

from larq_ensemble.ensembles.ensemble import Ensemble, as_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.models.keras_files import load_keras_file


def load_ensemble(
    path: str | os.PathLike[str], *, compile: bool = True, safe_mode: bool = True
) -> Ensemble:
    """Loads an ensemble that Keras saved.

    # Arguments
        path: a `.keras` or `.h5` file or a SavedModel that `Ensemble.save` or `ModelCheckpoint`
            wrote, or a run directory of `larq-ensemble train`. In a run of an earlier version
            the ensemble has no normalization; `load_run(path).model` takes it from the run.
        compile: whether to compile the ensemble as it was saved, with the optimizer's state. One
            that was saved without, as in run directories, is compiled with the losses and metrics
            of its scheme and Keras's default optimizer, so `evaluate` works.
        safe_mode: as for `keras.models.load_model`: `False` runs code that a file has, as with a
            `Lambda` layer. Only for files that you trust.

    # Raises
        EnsembleError: if there is no ensemble at `path`, or as
            `larq_ensemble.models.keras_files.load_keras_file`.
    """
    file = Path(path)
    if file.is_dir() and not (file / "saved_model.pb").is_file():
        file /= "model.keras"
    if not file.is_file() and not file.is_dir():
        raise EnsembleError(
            f"No ensemble at {str(path)!r}: give a .keras or .h5 file, or the directory of a run "
            "that has finished."
        )
    ensemble = as_ensemble(load_keras_file(file, compile=compile, safe_mode=safe_mode))
    if compile and ensemble.optimizer is None:
        ensemble.compile()
    return ensemble
