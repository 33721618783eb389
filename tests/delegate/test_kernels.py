"""The delegate's C by itself: without warnings, and its kernels against plain loops."""

import shutil
import subprocess
from pathlib import Path

import pytest

DELEGATE = Path(__file__).parents[2] / "delegate"
KERNELS = ("binary_convolution", "binary_kernels", "epilogue", "max_pool", "sign_map", "threads")
FLAGS = ("-std=c11", "-ffp-contract=off", "-pthread", "-Wall", "-Wextra", "-Wconversion", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover")


def compiled(program, compiler, *flags):
    sources = [DELEGATE / "src" / f"{name}.c" for name in KERNELS]
    test = DELEGATE / "tests/test_kernels.c"
    command = [compiler, *FLAGS, *flags, test, *sources, "-lm", "-o", program]
    subprocess.run(command, check=True, timeout=120)
    return program


def run(*command):
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_no_source_gives_a_warning(compiler):
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler}")
    run(compiler, *FLAGS, "-fsyntax-only", *sorted((DELEGATE / "src").glob("*.c")))


@pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc")
def test_convolutions_of_random_shapes_are_those_of_plain_loops(tmp_path):
    run(compiled(tmp_path / "test", "gcc", *SANITIZERS), "60")
