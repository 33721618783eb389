"""Which back end runs a file: that asked for, or the best that is installed."""

from __future__ import annotations

from larq_ensemble.errors import EnsembleError, UnknownNameError
from larq_ensemble.runtime.backends import BACKENDS, KERNELS
from larq_ensemble.runtime.backends.backend import Backend
from larq_ensemble.runtime.backends.lce import LCE
from larq_ensemble.runtime.backends.litert import LITERT
from larq_ensemble.runtime.backends.wheels import advice_without

_BY_NAME: dict[str, Backend] = {backend.name: backend for backend in (LITERT, LCE)}


def backend_named(name: str) -> Backend:
    """A back end by its name.

    # Raises
        UnknownNameError: for another name than those of `BACKENDS`.
    """
    if name not in BACKENDS:
        raise UnknownNameError("backend", name, BACKENDS)
    return _BY_NAME[name]


def installed() -> list[Backend]:
    """The back ends that can be loaded here, in the order of preference."""
    found = []
    for name in BACKENDS:
        try:
            _BY_NAME[name].check()
        except EnsembleError:
            continue
        found.append(_BY_NAME[name])
    return found


def to_try(backend: str | None, kernel: str | None) -> list[Backend]:
    """The back ends that may run a file, in the order of preference.

    # Arguments
        backend: the one to use; `None`: that of the kernel, or any.
        kernel: of binary convolutions; `None`: any.

    # Raises
        UnknownNameError: for another back end or kernel.
        EnsembleError: if the kernel is another back end's, or if what was asked for, or any, isn't
            installed or can't be loaded.
    """
    if backend is not None:
        backend_named(backend)
    names: tuple[str, ...] = BACKENDS if backend is None else (backend,)
    if kernel is not None:
        names = _names_with(kernel, names)
    if len(names) == 1:
        chosen = _BY_NAME[names[0]]
        chosen.check()
        return [chosen]
    found = installed()
    if not found:
        raise _missing()
    return found


def _names_with(kernel: str, names: tuple[str, ...]) -> tuple[str, ...]:
    owners = tuple(name for name in BACKENDS if kernel in KERNELS[name])
    if not owners:
        known = [kernel for name in names for kernel in KERNELS[name]]
        raise UnknownNameError("kernel", kernel, known)
    if not set(owners) & set(names):
        own = " or ".join(repr(kernel) for kernel in KERNELS[names[0]])
        raise EnsembleError(
            f"`kernel` {kernel!r} is one of `backend={owners[0]!r}`: with `backend={names[0]!r}` "
            f"use {own}."
        )
    return owners


def _missing() -> EnsembleError:
    """The error for a Python without a back end."""
    for name in BACKENDS:
        if _BY_NAME[name].is_installed:
            try:
                _BY_NAME[name].check()
            except EnsembleError as error:
                return error
    return EnsembleError(advice_without(*(_BY_NAME[name].wheels for name in BACKENDS)))
