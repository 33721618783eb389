"""What a device needs, and every command's help, work where TensorFlow is not installed.

Imports inside functions are checked by import-linter's contracts in setup.cfg.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import larq_ensemble
from larq_ensemble.errors import install_command

PACKAGE = Path(larq_ensemble.__file__).parent
#: Packages and modules below the TensorFlow line.
BELOW = (
    *("network", "runtime", "tflite", "console"),
    *("errors.py", "files.py", "legacy_keras.py", "locks.py", "progress.py", "registry.py"),
)
#: Others that import TensorFlow in functions only.
LAZY = ("data", "runs.py", "cli.py", "demo.py")
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


def test_an_import_above_the_line_fails_there() -> None:
    """Shows that the process really has no TensorFlow."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "larq_ensemble.models"], capture_output=True, text=True
    )
    assert "Training and conversion need TensorFlow and tf-keras" in done.stderr
    assert install_command("train") in done.stderr
