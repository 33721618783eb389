"""Targets of the Makefile where a tool is missing: tests that are all skipped are no success."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize(
    ("target", "tool"),
    [("test-web", "chromedriver"), ("test-android", "kotlinc"), ("test-mcu", "gcc-arm-none-eabi")],
)
def test_a_missing_tool_is_an_error(target: str, tool: str, tmp_path: Path) -> None:
    make = shutil.which("make")
    assert make is not None
    done = subprocess.run(
        [make, "--old-file=.venv/.installed", target],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert tool in done.stderr
    assert "apt install" in done.stderr
