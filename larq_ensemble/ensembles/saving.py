"""Loading saved ensembles."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

import h5py

from larq_ensemble.ensembles.ensemble import Ensemble, as_ensemble
from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.keras import keras


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
        EnsembleError: if there is no ensemble at `path`, or the file is damaged, or needs code that
            is not there.
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
        model = keras.models.load_model(file, compile=compile, safe_mode=safe_mode)
    except Exception as error:  # zip, HDF5 and Keras each raise errors of their own.
        if "safe_mode=False" in str(error):
            raise EnsembleError(
                f"{str(file)!r} has a Lambda layer, whose function is code in the file: if you "
                "trust the file, load it with `safe_mode=False`. A layer class of yours with "
                "@keras.utils.register_keras_serializable() in place of the Lambda would need no "
                "trust."
            ) from error
        if _is_whole(file):
            reason = str(error).strip().splitlines()[-1]
            raise EnsembleError(
                f"Keras can't make the layers of {str(file)!r} ({reason}). If a class or function "
                "of yours is among them, import the module that registers it with "
                "@keras.utils.register_keras_serializable(), or load the file within "
                "`keras.utils.custom_object_scope`."
            ) from error
        raise EnsembleError(
            f"{str(file)!r} can't be read ({first_line(error)}): it is damaged, or no Keras model."
        ) from error
    ensemble = as_ensemble(model)
    if compile and ensemble.optimizer is None:
        ensemble.compile()
    return ensemble


def _is_whole(file: Path) -> bool:
    """Whether a file is an undamaged archive or HDF5 file of Keras."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                return "config.json" in archive.namelist() and archive.testzip() is None
        with h5py.File(file) as content:
            return "model_config" in content.attrs
    except (OSError, zipfile.BadZipFile, zlib.error):
        return False
