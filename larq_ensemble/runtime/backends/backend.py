"""What a back end is: a runtime for TFLite graphs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np

from larq_ensemble.errors import EnsembleError, first_line
from larq_ensemble.runtime.backends import KERNELS
from larq_ensemble.runtime.backends.wheels import Wheels
from larq_ensemble.runtime.file import EnsembleFile

#: From the inputs of a graph to its outputs, both in the order of the file. One call at a time.
Run = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]

#: What bindings of C++ raise for a model, its inputs, or a lack of memory.
BINDING_ERRORS = (RuntimeError, TypeError, ValueError, OverflowError, MemoryError)


class Backend(ABC):
    """A runtime that can run a file.

    # Attributes
        name: of `larq_ensemble.runtime.backends.BACKENDS`.
        wheels: the package that has it.
    """

    name: str
    wheels: Wheels

    @property
    def title(self) -> str:
        """What messages call it."""
        return self.wheels.title

    @property
    def kernels(self) -> tuple[str, ...]:
        """Its kernels of binary convolutions."""
        return KERNELS[self.name]

    @property
    @abstractmethod
    def is_installed(self) -> bool:
        """Whether Python finds the package; it may still not load."""

    @abstractmethod
    def check(self) -> None:
        """Loads the runtime.

        # Raises
            EnsembleError: if it isn't installed or can't be loaded; says what to install here.
        """

    @abstractmethod
    def kernels_of(self, file: EnsembleFile) -> tuple[str, ...]:
        """Those of `kernels` that may run a file, and are there; one at least."""

    @abstractmethod
    def check_kernel(self, kernel: str, file: EnsembleFile) -> None:
        """Raises `EnsembleError` if one of `kernels` is not among `kernels_of`; it says why."""

    @abstractmethod
    def open(self, data: bytes, threads: int, kernel: str) -> Run:
        """Opens the first graph of a model.

        # Arguments
            data: the model.
            threads: threads of a convolution.
            kernel: one of `kernels`.

        # Raises
            EnsembleError: if the runtime can't be loaded, or refuses the model.
        """

    def refusal(self, error: Exception) -> EnsembleError:
        """The error for a model that the runtime refuses."""
        return EnsembleError(
            f"{self.title} refuses the model ({_reason(error)}): convert it again with the "
            "installed version."
        )

    def failure(self, error: Exception) -> EnsembleError:
        """The error for a run that the runtime ends."""
        return EnsembleError(
            f"{self.title} can't run the model ({_reason(error)}): convert it again with the "
            "installed version."
        )


def _reason(error: Exception) -> str:
    # A TypeError of a binding prints its arguments, and so the whole file.
    return f"{type(error).__name__}: {first_line(error)[:200]}"
