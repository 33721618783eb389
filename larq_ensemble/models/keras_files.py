"""Loading Keras files, always in Keras's safe mode unless their author is known.

A Keras file names the classes of its layers, and Keras imports the modules that it names. It may
also hold the code of a `Lambda` layer, which safe mode refuses to run. Keras has that mode for
`.keras` files only, so HDF5 files with such layers are refused here.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import h5py

from larq_ensemble import constraints as _constraints  # noqa: F401 (so that Keras can load them)
from larq_ensemble import layers as _layers  # noqa: F401
from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.keras import keras

SUFFIXES = (".keras", ".h5", ".hdf5")
#: What to do about weights that HDF5, which is also in `.keras` files, has no type for.
BFLOAT16_WAY_OUT = (
    "build the backbone with the policy 'mixed_bfloat16', whose weights are float32, or save it "
    "as a SavedModel (`save_format='tf'`)"
)
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
        if (name := _unknown_class(path, error)) is not None:
            raise EnsembleError(
                f"{str(path)!r} has {name!r}, which nothing in this process registers: in Python, "
                "import the module that does, or load the file within "
                "`keras.utils.custom_object_scope`; on the command line, run it where that module "
                "can be imported, and give the network as `module:function`."
            ) from error
        if "No cast function available" in str(error):
            raise EnsembleError(
                f"{str(path)!r} has weights in bfloat16, which Keras writes to such files, but "
                f"can't read: {BFLOAT16_WAY_OUT}."
            ) from error
        if _is_whole(path):
            reason = [first_line(error), *str(error).strip().splitlines()][-1]
            raise EnsembleError(
                f"Keras can't make the layers of {str(path)!r} ({reason}). If a class or function "
                "of yours is among them, import the module that registers it, or in Python load "
                "the file within `keras.utils.custom_object_scope`."
            ) from error
        raise EnsembleError(
            f"{str(path)!r} can't be read ({first_line(error)}): {way_out}."
        ) from error


def has_bfloat16(model: keras.Model) -> bool:
    """Whether it has weights in bfloat16, which Keras writes to files, but can't read there."""
    return any(weight.dtype == "bfloat16" for weight in model.weights)


def _is_whole(path: str | os.PathLike[str]) -> bool:
    """Whether it is an undamaged archive of Keras."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "config.json" in archive.namelist() and archive.testzip() is None
    except (OSError, zipfile.BadZipFile, zlib.error):
        return False


def _unknown_class(path: str | os.PathLike[str], error: Exception) -> str | None:
    """The class that is registered nowhere in this process, if that is why loading failed."""
    if unknown := _UNKNOWN_CLASS.search(str(error)):
        return unknown["new"] or unknown["old"]
    if not _is_whole(path):
        return None
    # Of a layer that is not registered Keras makes text, and fails somewhere else.
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    return next(_unregistered(config), None)


def _unregistered(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _unregistered(item)
    elif isinstance(value, dict):
        name = value.get("registered_name")
        is_of_keras = str(value.get("module")).partition(".")[0] in ("keras", "tf_keras")
        is_named = isinstance(name, str) and not is_of_keras
        if is_named and keras.saving.get_registered_object(name) is None:
            yield str(value.get("class_name", name))
        for item in value.values():
            yield from _unregistered(item)


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
        "class with @keras.utils.register_keras_serializable(). In Python, "
        "`load_ensemble(path, safe_mode=False)` runs the code of a file that you trust."
    )
