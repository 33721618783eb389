"""LiteRT as a back end: values, refusals, its notice on stderr, the delegate's absence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import larq_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime import EnsembleInterpreter, members
from larq_ensemble.runtime.backends import delegate
from larq_ensemble.runtime.backends.backend import Run
from larq_ensemble.runtime.backends.litert import LITERT

DATA = Path(__file__).parents[3] / "data"


@pytest.mark.parametrize("name", ["branches", "compact", "indexed", "subgraphs", "version_1"])
def test_old_files_give_the_recorded_logits(name: str) -> None:
    recorded = np.load(DATA / f"{name}.npz")
    ensemble = EnsembleInterpreter(DATA / f"{name}.tflite", kernel="builtin", threads=1)
    logits = ensemble.predict_logits(recorded["images"])
    np.testing.assert_allclose(logits, recorded["logits"], rtol=1e-4, atol=1e-4)


def test_a_model_that_it_refuses_is_an_error_of_one_line() -> None:
    # Unchanged, and so with LCE's operators.
    data = (DATA / "indexed.tflite").read_bytes().replace(b"Lce", b"Ecl")
    with pytest.raises(EnsembleError, match=r"^LiteRT refuses the model .*EclQuantize") as raised:
        LITERT.open(data, 1, "builtin")
    assert "\n" not in str(raised.value)


PROGRAM = f"""
import os, sys
import numpy as np
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.backends import litert

BEFORE
ensemble = EnsembleInterpreter({str(DATA / "indexed.tflite")!r}, kernel="builtin")
ensemble.predict(np.zeros(ensemble.input_shape, np.uint8))
assert not {{"tensorflow", "keras", "tf_keras", "larq"}} & set(sys.modules)
assert not any("larq_compute_engine" in name for name in sys.modules)
"""
WRITES_MORE = """
import contextlib

held = litert._held_stderr

@contextlib.contextmanager
def with_more():
    with held():
        os.write(2, b"first line\\n")
        yield
        os.write(2, b"second line, not ended")

litert._held_stderr = with_more
"""


READ_ONLY = """
import tempfile

def no_folder(*arguments, **options):
    raise FileNotFoundError("No usable temporary directory found")

tempfile.TemporaryFile = no_folder
"""


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (WRITES_MORE, "first line\nsecond line, not ended"),
        ("os.close(2)", ""),
        (READ_ONLY, "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n"),
    ],
)
def test_its_notice_does_not_reach_the_user(before: str, expected: str) -> None:
    """What else the process writes to stderr meanwhile does."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("BEFORE", before)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, expected)


class Delegate:
    """Stands in for the delegate: builtin operators, of the graphs that it takes.

    The clock is a stand-in, too, because a busy machine's says little: a run of builtin operators
    takes a second, one of the delegate `seconds`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, takes: Sequence[bool], seconds: float):
        self.takes, self.seconds, self.now = iter(takes), seconds, 0.0
        self.run_builtin = type(LITERT).open
        monkeypatch.setattr(members, "time", SimpleNamespace(perf_counter=lambda: self.now))
        monkeypatch.setattr(type(LITERT), "kernels_of", lambda *_: ("delegate", "builtin"))
        monkeypatch.setattr(
            type(LITERT), "open", lambda _, data, threads, kernel: self.open(data, threads, kernel)
        )

    def open(self, data: bytes, threads: int, kernel: str) -> Run:
        run = self.run_builtin(LITERT, data, threads, "builtin")
        if kernel == "delegate" and not next(self.takes):
            raise EnsembleError("the delegate doesn't take the graph")

        def timed(inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
            self.now += self.seconds if kernel == "delegate" else 1.0
            return run(inputs)

        return timed


@pytest.mark.parametrize(
    ("takes", "seconds", "kernel"),
    [
        ([True] * 9, 1.0, "delegate"),  # they tie
        ([True] * 9, 1.04, "delegate"),
        ([True] * 9, 1.06, "builtin"),
        ([False] * 9, 0.1, "builtin"),
        # The trunk and the first member, but not the second one, which is opened when it runs.
        ([True, True, False, True], 0.1, "delegate"),
    ],
)
def test_the_delegate_runs_what_it_takes_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, takes: list[bool], seconds: float, kernel: str
) -> None:
    recorded = np.load(DATA / "subgraphs.npz")
    Delegate(monkeypatch, takes, seconds)
    ensemble = EnsembleInterpreter(DATA / "subgraphs.tflite")
    assert ensemble.kernel == kernel
    logits = ensemble.predict_logits(recorded["images"][:1])
    np.testing.assert_allclose(logits, recorded["logits"][:, :1], rtol=1e-4, atol=1e-4)


def test_without_a_delegate_builtin_operators_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(delegate.VARIABLE, raising=False)
    monkeypatch.setattr(delegate, "_BESIDE", tmp_path / "none.so")
    assert EnsembleInterpreter(DATA / "indexed.tflite").kernel == "builtin"
    with pytest.raises(EnsembleError, match=r"This installation has no delegate.*`kernel`"):
        EnsembleInterpreter(DATA / "indexed.tflite", kernel="delegate")


@pytest.mark.parametrize("version", [larq_ensemble.__version__, "0.0.1"])
def test_python_in_a_checkout_takes_the_delegate_of_the_installation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    """A checkout has none, and is what Python imports in its folder."""
    monkeypatch.delenv(delegate.VARIABLE, raising=False)
    monkeypatch.setattr(delegate, "_BESIDE", tmp_path / "none.so")
    installed = tmp_path / "site-packages" / "larq_ensemble" / "runtime" / "none.so"
    installed.parent.mkdir(parents=True)
    installed.touch()
    about = tmp_path / "site-packages" / f"larq_ensemble-{version}.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text(f"Metadata-Version: 2.1\nName: larq-ensemble\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    expected = installed if version == larq_ensemble.__version__ else delegate._BESIDE
    assert delegate.path() == expected


@pytest.mark.parametrize("what", ["nothing", "text"])
def test_a_delegate_that_is_named_but_no_library_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    path = tmp_path / "delegate.so"
    if what == "text":
        path.write_text("no library")
    monkeypatch.setenv(delegate.VARIABLE, str(path))
    message = {
        "nothing": "LARQ_ENSEMBLE_DELEGATE names .*no file",
        # Commands, which give this as a warning, have no option for a kernel.
        "text": "can't be loaded .* or unset LARQ_ENSEMBLE_DELEGATE",
    }[what]
    with pytest.warns(UserWarning, match=f"{message}.*runs on builtin operators"):
        assert EnsembleInterpreter(DATA / "indexed.tflite").kernel == "builtin"
    with pytest.raises(EnsembleError, match=message):
        EnsembleInterpreter(DATA / "indexed.tflite", kernel="delegate")


def test_a_delegate_is_named_as_a_path_from_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The system's loader looks for a name without a folder elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(delegate.VARIABLE, "delegate.so")
    assert delegate.path() == tmp_path / "delegate.so"
