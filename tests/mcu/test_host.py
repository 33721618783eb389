"""Exported C on this machine, with all checks of gcc's sanitizers, equals the Python runtime."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from .programs import FILES, SHIPPED, Program, assert_same, digits, photos

FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror"]
CHECKS = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")


def run_here(program: Program, *flags: str) -> None:
    elf = program.folder / "answers"
    command = ["gcc", *FLAGS, *flags, f"-I{program.folder}", *program.sources, "-lm", "-o", elf]
    subprocess.run(command, check=True)
    subprocess.run([elf, *program.words], check=True, cwd=program.folder)


@pytest.mark.parametrize("name", ["compact", "subgraphs", "weighted"])
def test_digits(name: str, tmp_path: Path) -> None:
    program = Program(FILES[name], tmp_path, digits(FILES[name], 50))
    run_here(program, *CHECKS)
    assert_same(program.answers(), program.expected())


def test_photos(tmp_path: Path) -> None:
    program = Program(SHIPPED, tmp_path, photos()[:8])
    run_here(program, "-O2")
    assert_same(program.answers(), program.expected())


def test_half_floats_move_logits_by_little(tmp_path: Path) -> None:
    images = photos()[:8]
    whole = Program(SHIPPED, tmp_path, images)
    (tmp_path / "half").mkdir()
    half = Program(SHIPPED, tmp_path / "half", images, activations="float16")
    run_here(half, "-O2")
    assert half.report.arena_bytes < 0.6 * whole.report.arena_bytes
    found, expected = half.answers().logits, whole.expected().logits
    # A number that is rounded may change a sign, and that the sums behind it.
    assert np.std(found - expected) < 0.15 * np.std(expected)
