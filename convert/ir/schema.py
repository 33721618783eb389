"""LCE's generated classes of the TFLite schema, without importing TensorFlow."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from larq_ensemble.runtime.lce import not_installed

_MODULE = "larq_compute_engine.mlir.python.tflite_schema"


@lru_cache(maxsize=1)
def schema() -> ModuleType:
    """The schema module that Larq Compute Engine ships.

    It is loaded by its path, because importing `larq_compute_engine` imports TensorFlow.

    # Raises
        EnsembleError: if Larq Compute Engine isn't installed.
    """
    if _MODULE in sys.modules:
        return sys.modules[_MODULE]
    package = importlib.util.find_spec("larq_compute_engine")
    if package is None or not package.submodule_search_locations:
        raise not_installed()
    path = Path(package.submodule_search_locations[0]) / "mlir" / "python" / "tflite_schema.py"
    spec = importlib.util.spec_from_file_location("larq_ensemble_tflite_schema", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} can't be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def enum(name: str) -> dict[str, int]:
    """The members of an enumeration of the schema, e.g. `enum("TensorType")["INT32"] == 2`."""
    values = vars(getattr(schema(), name))
    return {key: value for key, value in values.items() if not key.startswith("_")}


@cache
def enum_names(name: str) -> dict[int, str]:
    """The names of an enumeration's members by their values."""
    return {value: key for key, value in enum(name).items()}


def options(kind: str, **fields: Any) -> Any:
    """A table of operator options, e.g. `options("AddOptions", fusedActivationFunction=0)`.

    # Arguments
        kind: the table's name in the schema.
        **fields: those that differ from the schema's defaults.

    # Raises
        TypeError: for a field that the table doesn't have.
    """
    table = getattr(schema(), f"{kind}T")()
    unknown = fields.keys() - vars(table).keys()
    if unknown:
        raise TypeError(f"{kind} has no field {', '.join(sorted(unknown))}")
    vars(table).update(fields)
    return table


def table_key(value: Any) -> Any:
    """Something hashable that is equal for tables, or parts of tables, of equal content."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, list):
        return tuple(map(table_key, value))
    if hasattr(type(value), "Pack"):  # one of the schema's classes
        return type(value).__name__, tuple(
            (name, table_key(item)) for name, item in vars(value).items()
        )
    return value
