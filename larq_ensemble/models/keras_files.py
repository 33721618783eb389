"""Loading Keras files, always in Keras's safe mode unless their author is known.

A Keras file names the classes of its layers, and Keras imports the modules that it names. It may
also hold the code of a `Lambda` layer, which safe mode refuses to run. Keras has that mode for
`.keras` files only, so HDF5 files with such layers are refused here.
"""

from __future__ import annotations

import os
import re

import h5py

from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.keras import keras

SUFFIXES = (".keras", ".h5", ".hdf5")
_UNKNOWN_CLASS = re.compile(
    r"Could not locate (?:class|function) '(?P<new>[^']+)'|Unknown \w+: '(?P<old>[^']+)'"
)


def load_keras_file(
    path: str | os.PathLike[str],
    *,
    compile: bool = False,
    safe_mode: bool = True,
    way_out: str = "it is damaged, or no Keras model",
) -> keras.Model:
    """Loads a model that Keras saved.

    # Arguments
        path: a `.keras` or `.h5` file, or the folder of a SavedModel.
        compile: whether to compile it as it was saved.
        safe_mode: whether to refuse the code of `Lambda` layers.
        way_out: the end of the message if the file can't be read.

    # Raises
        EnsembleError: if it can't be loaded, with the reason: it is damaged, it has a class that
            is not registered in this process, or a `Lambda` layer in safe mode.
    """
    try:
        if safe_mode and h5py.is_hdf5(path):
            _refuse_lambdas(path)
        return keras.models.load_model(path, compile=compile, safe_mode=safe_mode)
    except EnsembleError:
        raise
    except Exception as error:  # zip, HDF5 and Keras each raise errors of their own.
        if "safe_mode=False" in str(error):
            raise _has_lambda(path) from error
        if unknown := _UNKNOWN_CLASS.search(str(error)):
            name = unknown["new"] or unknown["old"]
            raise EnsembleError(
                f"{str(path)!r} has {name!r}, which nothing in this process registers: in Python, "
                "import the module that does; on the command line, run it where that module can "
                "be imported, and give the network as `module:function`."
            ) from error
        raise EnsembleError(
            f"{str(path)!r} can't be read ({first_line(error)}): {way_out}."
        ) from error


def _refuse_lambdas(path: str | os.PathLike[str]) -> None:
    with h5py.File(path) as file:
        config = file.attrs.get("model_config", "")
    text = config.decode() if isinstance(config, bytes) else str(config)
    if re.search(r'"class_name": *"Lambda"', text):
        raise _has_lambda(path)


def _has_lambda(path: str | os.PathLike[str]) -> EnsembleError:
    return EnsembleError(
        f"{str(path)!r} has a Lambda layer, whose code would be run from the file: give the "
        "network as `module:function`, or write the layer with operators, such as `2 * x`, or as a "
        "class with @keras.utils.register_keras_serializable()."
    )
