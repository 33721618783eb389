"""Running a graph with Larq Compute Engine (LCE), without TensorFlow.

`load_extension` loads LCE's compiled module by its path, because `import larq_compute_engine`
imports TensorFlow. LCE's Python binding copies the model's bytes, so mapping a file into memory
would save nothing. In C++, `FlatBufferModel::BuildFromFile` maps it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.runtime.backends.backend import BINDING_ERRORS, Backend, Run
from larq_ensemble.runtime.backends.wheels import Wheels
from larq_ensemble.runtime.file import EnsembleFile

_EXTENSION = "larq_compute_engine.tflite.python.interpreter_wrapper_lite"
WHEELS = Wheels(
    title="Larq Compute Engine",
    requirement="larq-compute-engine==0.16.0",  # the version that was tested
    processors={
        "Linux": ("x86_64",),
        "Windows": ("amd64", "x86_64"),
        "Darwin": ("x86_64", "arm64"),
    },
    pythons=(10, 12),
    platforms="Linux and Windows (x86_64) and macOS",
)


class LceBackend(Backend):
    """LCE's interpreter.

    Its two kernels of binary convolutions give equal results. Only inside control flow, which our
    graphs don't have, the indirect one is wrong. Binary convolutions with groups run with the
    indirect one alone.
    """

    name = "lce"
    wheels = WHEELS

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec("larq_compute_engine") is not None

    def check(self) -> None:
        load_extension()

    def kernels_of(self, file: EnsembleFile) -> tuple[str, ...]:
        only_indirect = file.has_groups or not file.has_binary_operators
        return ("indirect",) if only_indirect else self.kernels

    def check_kernel(self, kernel: str, file: EnsembleFile) -> None:
        if kernel == "default" and file.has_groups:
            raise EnsembleError(
                f"`kernel` {kernel!r} can't run this file, whose binary convolutions have groups: "
                "use 'indirect', or leave it out."
            )

    def open(self, data: bytes, threads: int, kernel: str) -> Run:
        return load_model(data, threads, kernel).predict


LCE = LceBackend()


def load_model(data: bytes, threads: int, kernel: str) -> Any:
    """Opens LCE's interpreter of a model's first subgraph.

    # Arguments
        data: the model.
        threads: threads of a convolution.
        kernel: `"indirect"` or `"default"`.

    # Raises
        EnsembleError: if Larq Compute Engine can't be loaded, or refuses the model.
    """
    extension = load_extension()
    reference, xnnpack = False, False
    try:
        return extension.LiteInterpreter(data, threads, reference, kernel == "indirect", xnnpack)
    except BINDING_ERRORS as error:
        raise LCE.refusal(error) from error


def load_extension() -> ModuleType:
    """Loads LCE's compiled module without importing `larq_compute_engine`.

    # Raises
        EnsembleError: if LCE isn't installed, if this version of it keeps the module elsewhere, or
            for NumPy 2.
    """
    if _EXTENSION in sys.modules:
        return sys.modules[_EXTENSION]
    path = _extension_path()
    if int(np.__version__.split(".")[0]) >= 2:
        raise EnsembleError(
            f"Larq Compute Engine needs NumPy 1, found {np.__version__}: "
            'install it with `pip install "numpy<2"`.'
        )
    spec = importlib.util.spec_from_file_location(_EXTENSION, path)
    if spec is None or spec.loader is None:
        raise EnsembleError(f"Larq Compute Engine's {path.name!r} is no module for this Python.")
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:  # another processor, an old C library
        raise EnsembleError(
            f"Larq Compute Engine can't be loaded ({first_line(error)}): {WHEELS.advice()}."
        ) from error
    # A second load in one process, by an import of LCE itself, would fail.
    sys.modules[_EXTENSION] = module
    return module


def _extension_path() -> Path:
    """The file of LCE's compiled module."""
    package = importlib.util.find_spec("larq_compute_engine")
    if package is None:
        raise EnsembleError(f"{WHEELS.title} is not installed: {WHEELS.advice()}.")
    for folder in package.submodule_search_locations or []:
        for path in Path(folder, "tflite", "python").glob("interpreter_wrapper_lite*"):
            return path
    raise EnsembleError(
        f"Larq Compute Engine {_installed_version()} has no module `interpreter_wrapper_lite` "
        f"where this package expects it: {WHEELS.advice()}."
    )


def _installed_version() -> str:
    import importlib.metadata  # only for the message, because it is slow to import

    try:
        return importlib.metadata.version("larq-compute-engine")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"
