"""Which back end and which kernel run a file, and what is said where none can."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.errors import EnsembleError, UnknownNameError
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.backends import BACKENDS, KERNELS
from larq_ensemble.runtime.backends.backend import Run
from larq_ensemble.runtime.backends.choice import backend_named
from larq_ensemble.runtime.backends.lce import LCE
from larq_ensemble.runtime.backends.litert import LITERT

INDEXED = Path(__file__).parents[3] / "data" / "indexed.tflite"
RECORDED = np.load(INDEXED.with_suffix(".npz"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"backend": "lce"}, {("lce", "indirect"), ("lce", "default")}),
        ({"backend": "litert", "kernel": "builtin"}, {("litert", "builtin")}),
        # A kernel is of one back end.
        ({"kernel": "default"}, {("lce", "default")}),
        ({"kernel": "builtin"}, {("litert", "builtin")}),
        ({}, {("litert", "delegate"), ("litert", "builtin")}),
    ],
)
def test_the_back_end_asked_for_runs_the_file(options: dict, expected: set) -> None:
    ensemble = EnsembleInterpreter(INDEXED, **options)
    assert (ensemble.backend, ensemble.kernel) in expected
    logits = ensemble.predict_logits(RECORDED["images"])
    np.testing.assert_allclose(logits, RECORDED["logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tflite"}, r"Unknown backend 'tflite'\. Known: lce, litert"),
        ({"kernel": "fast"}, r"kernel 'fast'\. Known: builtin, default, delegate, indirect"),
        ({"backend": "lce", "kernel": "fast"}, r"kernel 'fast'\. Known: default, indirect"),
        (
            {"backend": "lce", "kernel": "builtin"},
            "`kernel` 'builtin' is one of `backend='litert'`: with `backend='lce'` use 'indirect' "
            "or 'default'",
        ),
    ],
)
def test_what_does_not_exist_is_refused(options: dict, message: str) -> None:
    with pytest.raises(EnsembleError, match=message) as raised:
        EnsembleInterpreter(INDEXED, **options)
    assert isinstance(raised.value, UnknownNameError) == ("Known" in message)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_best_that_is_installed_runs_the_file(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, *(other for other in BACKENDS if other != backend))
    assert EnsembleInterpreter(INDEXED).backend == backend


def without(monkeypatch: pytest.MonkeyPatch, *backends: str) -> None:
    """Lets back ends look as if they weren't installed."""
    for name in backends:
        kind = type(backend_named(name))
        monkeypatch.setattr(kind, "is_installed", False)

        def check(self: object, name: str = name) -> None:
            raise EnsembleError(f"no {name}")

        monkeypatch.setattr(kind, "check", check)


def test_a_file_that_one_refuses_runs_on_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_arguments: object) -> Run:
        raise EnsembleError("refused")

    monkeypatch.setattr(type(LITERT), "open", refusing)
    assert EnsembleInterpreter(INDEXED).backend == "lce"
    with pytest.raises(EnsembleError, match="refused"):
        EnsembleInterpreter(INDEXED, backend="litert")
    monkeypatch.setattr(type(LCE), "open", refusing)
    with pytest.raises(EnsembleError, match="refused"):
        EnsembleInterpreter(INDEXED)


@pytest.mark.parametrize(
    ("system", "processor", "python", "message"),
    [
        ("Linux", "x86_64", (3, 11), 'install LiteRT with `pip install "ai-edge-litert>=2.3"`'),
        ("Linux", "aarch64", (3, 13), 'install LiteRT with `pip install "ai-edge-litert>=2.3"`'),
        ("Windows", "AMD64", (3, 14), 'install LiteRT with `pip install "ai-edge-litert>=2.3"`'),
        ("Darwin", "x86_64", (3, 11), "install Larq Compute Engine with `pip install"),
        ("Darwin", "x86_64", (3, 13), "LiteRT: it has no wheel for Darwin on x86_64.*Python 3.13"),
        ("Linux", "armv7l", (3, 11), "no wheel for Linux on armv7l.*C[+][+].*deployment guide"),
        ("Linux", "x86_64", (3, 15), "no wheel for Python 3.15, only for Python 3.10 to 3.14"),
    ],
)
def test_without_any_the_message_says_what_to_install_here(
    monkeypatch: pytest.MonkeyPatch, system: str, processor: str, python: tuple, message: str
) -> None:
    without(monkeypatch, *BACKENDS)
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: processor)
    monkeypatch.setattr(sys, "version_info", (*python, 0, "final", 0))
    with pytest.raises(EnsembleError, match=message) as raised:
        EnsembleInterpreter(INDEXED)
    assert ("pip install" in str(raised.value)) == ("pip install" in message)


@pytest.mark.parametrize(
    ("system", "processor", "python", "message"),
    [
        ("Linux", "x86_64", (3, 11), 'install it with `pip install "larq-compute-engine=='),
        ("Windows", "AMD64", (3, 10), 'install it with `pip install "larq-compute-engine=='),
        ("Darwin", "arm64", (3, 12), 'install it with `pip install "larq-compute-engine=='),
        ("Linux", "aarch64", (3, 11), "no wheel for Linux on aarch64"),
        ("Windows", "ARM64", (3, 12), "no wheel for Windows on arm64"),
        ("Linux", "x86_64", (3, 13), "no wheel for Python 3.13.*3.10 to 3.12"),
        ("FreeBSD", "amd64", (3, 11), "no wheel for FreeBSD"),
    ],
)
def test_the_advice_is_true_on_every_platform(
    monkeypatch: pytest.MonkeyPatch, system: str, processor: str, python: tuple, message: str
) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: processor)
    monkeypatch.setattr(sys, "version_info", (*python, 0, "final", 0))
    advice = LCE.wheels.advice()
    assert re.search(message, advice)
    assert ("pip install" in advice) == ("install it with" in message)


@pytest.mark.parametrize("faster", KERNELS["lce"])
def test_the_faster_kernel_is_chosen(monkeypatch: pytest.MonkeyPatch, faster: str) -> None:
    """The other kernel is slowed down."""
    load = type(LCE).open

    def slowed(self: object, data: bytes, threads: int, kernel: str) -> Run:
        run = load(LCE, data, threads, kernel)

        def slow(inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
            time.sleep(0.05)
            return run(inputs)

        return run if kernel == faster else slow

    monkeypatch.setattr(type(LCE), "open", slowed)
    assert EnsembleInterpreter(INDEXED, backend="lce").kernel == faster
