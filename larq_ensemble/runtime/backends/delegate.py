"""The delegate: a C library that runs LCE's operators on LiteRT.

It lies beside the Python of `larq_ensemble.runtime`; where that is a checkout, in the installation
of this version, if there is one. The environment variable `LARQ_ENSEMBLE_DELEGATE` names another
file.
"""

from __future__ import annotations

import ctypes
import os
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from larq_ensemble import __version__
from larq_ensemble.errors import EnsembleError

VARIABLE = "LARQ_ENSEMBLE_DELEGATE"
_SUFFIXES = {"darwin": "dylib", "win32": "dll"}
_BESIDE = Path(__file__).parents[1] / (
    f"liblarq_ensemble_delegate.{_SUFFIXES.get(sys.platform, 'so')}"
)


def is_named() -> bool:
    """Whether the environment names the library."""
    return bool(os.environ.get(VARIABLE))


def path() -> Path:
    """Where the library is, or would be."""
    # The system looks for a name without a folder elsewhere than in the working directory.
    return Path(os.environ.get(VARIABLE) or _installed() or _BESIDE).absolute()


def _installed() -> Path | None:
    """The library of an installation, for Python that imports a checkout, as in its folder."""
    if not _BESIDE.is_file():
        for found in distributions(name="larq-ensemble"):
            library = Path(str(found.locate_file(f"larq_ensemble/runtime/{_BESIDE.name}")))
            if found.version == __version__ and library.is_file():
                return library
    return None


def load(threads: int) -> Any:
    """A delegate for one of LiteRT's interpreters.

    # Arguments
        threads: of a convolution.

    # Raises
        EnsembleError: if the library isn't there, or can't be loaded.
    """
    from ai_edge_litert.interpreter import load_delegate

    library = path()
    if not library.is_file():
        raise EnsembleError(
            f"{VARIABLE} names {str(library)!r}, which is no file: give the path of the delegate."
            if is_named()
            else "This installation has no delegate, which needs a C compiler where no wheel with "
            f"it is installed: use another `kernel`, or give its path in {VARIABLE}."
        )
    try:
        # LiteRT's own class doesn't survive a library that can't be loaded: its destructor fails.
        _ = ctypes.CDLL(str(library)).tflite_plugin_create_delegate
        return load_delegate(str(library), {"num_threads": threads})
    # No library of this system, without the entry points, or one that refuses the options.
    except (OSError, AttributeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        otherwise = f"unset {VARIABLE}" if is_named() else "use another `kernel`"
        raise EnsembleError(
            f"The delegate {str(library)!r} can't be loaded ({reason}): build it for this system, "
            f"or {otherwise}."
        ) from error
