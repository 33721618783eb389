"""What a device needs, and every command's help, work where TensorFlow is not installed.

Imports inside functions are checked by import-linter's contracts in setup.cfg.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

import larq_ensemble
from larq_ensemble.errors import install_command

PACKAGE = Path(larq_ensemble.__file__).parent
#: Packages and modules below the TensorFlow line.
BELOW = (
    *("network", "pretrained", "runtime", "tflite", "console"),
    *("errors.py", "files.py", "tensorflow_start.py", "locks.py", "progress.py", "registry.py"),
)
#: Others that import TensorFlow in functions only.
LAZY = ("data", "runs.py", "cli.py", "demo")
#: Modules among them that are about `tf.data`, which others import in functions only.
OF_TENSORFLOW = {"larq_ensemble.data.streams", "larq_ensemble.data.tensorflow_data"}
COMMANDS = ("training/commands", "training/paper/commands", "convert/commands")

MISSING = "tensorflow tf_keras keras larq tensorflow_datasets keras_tuner"
PROGRAM = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({MISSING.split()}))  # `None`: an import raises an error
for name in sys.argv[1:]:
    importlib.import_module(name)
print(len(sys.argv[1:]), "modules imported")
"""


def module_names(*paths: str) -> list[str]:
    """The modules of some packages and files of `larq_ensemble`."""
    files = [file for path in paths for file in (PACKAGE / path).rglob("*.py")]
    files += [PACKAGE / path for path in paths if path.endswith(".py")]
    parts = [file.relative_to(PACKAGE.parent).with_suffix("").parts for file in files]
    return sorted(".".join(part).removesuffix(".__init__") for part in parts)


def test_imports_below_the_line_need_no_tensorflow() -> None:
    names = [name for name in module_names(*BELOW, *LAZY, *COMMANDS) if name not in OF_TENSORFLOW]
    for name in (
        "network.tracing",
        "runtime.backends.lce",
        "errors",
        "runs",
        "training.commands.train",
    ):
        assert f"larq_ensemble.{name}" in names
    done = subprocess.run([sys.executable, "-c", PROGRAM, *names], capture_output=True, text=True)
    assert done.stdout == f"{len(names)} modules imported\n", done.stderr


@pytest.mark.parametrize(
    ("version", "extra", "is_named"),
    [((3, 13), "train", True), ((3, 14), "convert", True), ((3, 12), "train", False),
     ((3, 13), "calibrate", False)],
)  # fmt: skip
def test_what_to_install_is_true_of_this_python(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], extra: str, is_named: bool
) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))
    named = f"with Python 3.10, 3.11 or 3.12 (this is {version[0]}.{version[1]})"
    assert (named in install_command(extra)) == is_named


@pytest.mark.parametrize(
    ("system", "machine", "extra", "is_named"),
    [("Linux", "aarch64", "train", True), ("Windows", "ARM64", "convert", True),
     ("Linux", "x86_64", "train", False), ("Windows", "AMD64", "convert", False),
     ("Darwin", "arm64", "train", False), ("Linux", "aarch64", "calibrate", False)],
)  # fmt: skip
def test_what_to_install_is_true_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, extra: str, is_named: bool
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    named = f"x86_64 or macOS (this is {system} on {machine.lower()})"
    assert (named in install_command(extra)) == is_named


def test_an_import_above_the_line_fails_there() -> None:
    """Shows that the process really has no TensorFlow."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "larq_ensemble.models"], capture_output=True, text=True
    )
    assert "Training and conversion need TensorFlow and tf-keras" in done.stderr
    assert install_command("train") in done.stderr
