"""Compiles C for tests, with all warnings as errors."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

#: What firmware projects compile with.
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def compile_c(
    folder: Path, *words: str | os.PathLike[str], name: str = "cc", target: str = "program"
) -> Path:
    """Compiles sources; skips the test where the compiler is missing.

    # Arguments
        folder: where sources and headers are looked for.
        words: sources, flags and libraries.
        name: the compiler.
        target: what is written, in the folder.
    """
    compiler = shutil.which(name)
    if compiler is None:
        pytest.skip(f"{name} isn't installed")
    command = [compiler, *STRICT, "-I.", *words, "-o", target]
    subprocess.run(command, check=True, cwd=folder)
    return folder / target


def library_of(folder: Path, *words: str | os.PathLike[str]) -> ctypes.CDLL:
    """Compiles sources to a library, and loads it; skips the test where `cc` is a cross compiler.

    So it is where Python is emulated: the compiler is the host's.
    """
    if compiler := shutil.which("cc"):
        answer = subprocess.run(
            [compiler, "-dumpmachine"], check=True, capture_output=True, text=True
        )
        machine = answer.stdout.split("-")[0]
        if machine != platform.machine():
            pytest.skip(f"cc compiles for {machine}, and this is {platform.machine()}")
    path = compile_c(folder, *words, "-lm", "-shared", "-fPIC", target="library.so")
    return ctypes.CDLL(str(path))
