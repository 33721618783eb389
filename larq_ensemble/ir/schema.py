"""Generated classes of the TFLite schema, as LiteRT or LCE ships them, without their packages.

Importing `larq_compute_engine` would import TensorFlow. The two differ in what only one of them
knows, which no file of ours holds; tests compare what they write.
"""

from __future__ import annotations

import importlib.util
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError

_MODULE = "larq_ensemble_tflite_schema"
#: Package -> the module in it. LiteRT's imports in a hundredth of a second, LCE's in a tenth.
_SOURCES = {
    "ai_edge_litert": "schema_py_generated.py",
    "larq_compute_engine": "mlir/python/tflite_schema.py",
}


@lru_cache(maxsize=1)
def schema() -> ModuleType:
    """The schema's classes.

    # Raises
        EnsembleError: if neither LiteRT nor Larq Compute Engine is installed.
    """
    for package, module in _SOURCES.items():
        found = importlib.util.find_spec(package)
        if found is not None and found.submodule_search_locations:
            return load_schema(Path(found.submodule_search_locations[0]) / module)
    raise EnsembleError(
        "Neither LiteRT nor Larq Compute Engine is installed: install one with "
        "`pip install ai-edge-litert`."
    )


def load_schema(path: Path) -> ModuleType:
    """Loads generated classes from a file.

    # Raises
        ImportError: if it can't be loaded.
    """
    spec = importlib.util.spec_from_file_location(_MODULE, path)
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
