"""Loading Larq Compute Engine without TensorFlow, and what is said where it can't be."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.backends import lce

INDEXED = Path(__file__).parents[3] / "data" / "indexed.tflite"


@pytest.mark.parametrize("missing", ["extension", "package", "numpy 1"])
def test_a_missing_lce_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    monkeypatch.delitem(sys.modules, lce._EXTENSION, raising=False)
    if missing == "numpy 1":
        monkeypatch.setattr(np, "__version__", "2.1.0")
    else:
        spec = None
        if missing == "extension":
            spec = ModuleSpec("larq_compute_engine", None, is_package=True)
            assert spec.submodule_search_locations is not None
            spec.submodule_search_locations.append(str(tmp_path))
        monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    installed = version("larq-compute-engine")
    message = {
        "numpy 1": "^Larq Compute Engine needs NumPy 1, found 2.1.0",
        "package": "^Larq Compute Engine is not installed",
        "extension": rf"^Larq Compute Engine {installed} has no .* install it with",
    }[missing]
    with pytest.raises(EnsembleError, match=message):
        EnsembleInterpreter(INDEXED, backend="lce")
