"""Runs delegate/tests/test_kernels.c: kernels against plain loops, over random shapes."""

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


@pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc")
def test_convolutions_of_random_shapes_are_those_of_plain_loops(tmp_path):
    run(compiled(tmp_path / "test", "gcc", *SANITIZERS), "60")
