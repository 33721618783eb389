"""The delegate's library: the one that is installed, or one built for this run."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from larq_ensemble.runtime.backends import delegate

_FOLDER = Path(__file__).parents[1] / "delegate" / "src"
#: As setup.py has them, but quicker to build.
_FLAGS = ["-std=c11", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden"]


@functools.cache
def library() -> Path | None:
    """The library; `None` where none is installed and no C compiler is there."""
    installed = Path(os.environ.get(delegate.VARIABLE) or delegate._BESIDE)
    if installed.is_file():
        return installed
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        return None
    built = Path(tempfile.mkdtemp(prefix="larq_ensemble_")) / "delegate.so"
    sources = map(str, sorted(_FOLDER.glob("*.c")))
    subprocess.run([*compiler, *_FLAGS, *sources, "-o", built, "-lm", "-lpthread"], check=True)
    return built
