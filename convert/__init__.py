"""From a trained Keras ensemble to one `.tflite` file, and back to what is in it.

Keras model -> front end -> passes -> target -> file. Names are imported when they are first used:
what starts from a file needs no TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from larq_ensemble.convert.benchmarking import benchmark
    from larq_ensemble.convert.conversion import (
        check_convertible,
        convert_ensemble,
        convert_run,
    )
    from larq_ensemble.convert.cutting import cut_file
    from larq_ensemble.convert.export import export_file
    from larq_ensemble.convert.file_conversion import convert_file
    from larq_ensemble.convert.inspection import inspect_file
    from larq_ensemble.convert.quantization import quantize_run
    from larq_ensemble.convert.verification import verify

_MODULES = {
    "benchmark": "benchmarking",
    "check_convertible": "conversion",
    "convert_ensemble": "conversion",
    "convert_file": "file_conversion",
    "convert_run": "conversion",
    "cut_file": "cutting",
    "export_file": "export",
    "inspect_file": "inspection",
    "quantize_run": "quantization",
    "verify": "verification",
}

__all__ = [
    "benchmark",
    "check_convertible",
    "convert_ensemble",
    "convert_file",
    "convert_run",
    "cut_file",
    "export_file",
    "inspect_file",
    "quantize_run",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
