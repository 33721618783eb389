"""Running a graph with Google's LiteRT, the runtime that was called TensorFlow Lite.

LiteRT doesn't know LCE's operators. Either our delegate runs them, or they are rewritten into
builtin operators of the same values when the graph is opened (`larq_ensemble.legalization`).
"""

from __future__ import annotations

import importlib.util
import itertools
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from larq_ensemble.console.standard_error import without_lines
from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.runtime.backends import delegate
from larq_ensemble.runtime.backends.backend import BINDING_ERRORS, Backend, Run
from larq_ensemble.runtime.backends.wheels import Wheels
from larq_ensemble.runtime.file import EnsembleFile

WHEELS = Wheels(
    title="LiteRT",
    requirement="ai-edge-litert>=2.3",
    processors={
        "Linux": ("x86_64", "aarch64"),
        "Windows": ("amd64", "x86_64"),
        "Darwin": ("arm64",),
    },
    pythons=(10, 14),
    platforms="Linux (x86_64, aarch64), macOS (arm64) and Windows (x86_64)",
)
_PACKAGE = "ai_edge_litert"
#: The start of the names of LCE's operators, as a model's bytes hold it.
_LCE = b"Lce"
#: What LiteRT writes on stderr once in a process. No setting turns it off.
_NOTICE = b"Created TensorFlow Lite XNNPACK delegate"
#: Counts the interpreters of the process.
_OPENED = itertools.count()


class LiteRtBackend(Backend):
    """LiteRT's interpreter, with the delegate XNNPACK, which is part of it.

    The results of its two kernels may differ by rounding (some 1e-6 of a logit).
    """

    name = "litert"
    wheels = WHEELS

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(_PACKAGE) is not None

    def check(self) -> None:
        if not self.is_installed:
            raise EnsembleError(f"{self.title} is not installed: {self.wheels.advice()}.")
        try:
            import ai_edge_litert.interpreter  # noqa: F401
        except ImportError as error:  # another processor, an old C library
            raise EnsembleError(
                f"{self.title} can't be loaded ({first_line(error)}): {self.wheels.advice()}."
            ) from error

    def kernels_of(self, file: EnsembleFile) -> tuple[str, ...]:
        if not file.has_binary_operators:
            return ("builtin",)
        try:
            delegate.load(threads=1)
        except EnsembleError as error:
            if delegate.is_named():
                warnings.warn(f"{error} The file runs on builtin operators.", stacklevel=5)
            return ("builtin",)
        return self.kernels

    def check_kernel(self, kernel: str, file: EnsembleFile) -> None:
        if kernel == "builtin":
            return
        if not file.has_binary_operators:
            raise EnsembleError(
                f"`kernel` {kernel!r} has nothing to run in this file, which has builtin operators "
                "only: leave it out."
            )
        delegate.load(threads=1)

    def open(self, data: bytes, threads: int, kernel: str) -> Run:
        self.check()
        from ai_edge_litert.interpreter import Interpreter

        delegates = [delegate.load(threads)] if kernel == "delegate" else []
        # A stock file stays as it is; where a constant looks like the name, nothing is rewritten.
        if kernel == "builtin" and _LCE in data:
            from larq_ensemble.legalization import legalized  # not needed with the delegate

            data = legalized(data)
        try:
            with nullcontext() if next(_OPENED) else _held_stderr():
                interpreter = Interpreter(
                    model_content=data, num_threads=threads, experimental_delegates=delegates
                )
                interpreter.allocate_tensors()
        except BINDING_ERRORS as error:
            raise self.refusal(error) from error
        return _Graph(interpreter)


class _Graph:
    """The first graph of a model, with inputs and outputs in the order of the file."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._inputs, self._outputs = (
            [tensor["index"] for tensor in details]
            for details in (interpreter.get_input_details(), interpreter.get_output_details())
        )

    def __call__(self, inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        for index, value in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(index, value)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def _held_stderr() -> AbstractContextManager[None]:
    return without_lines(_NOTICE)


LITERT = LiteRtBackend()
