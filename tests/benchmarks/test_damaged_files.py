"""Files damaged under a right checksum neither crash nor hang what reads them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "damaged_files.py"


def test_a_few_damaged_files() -> None:
    # A process of its own: without TensorFlow, and it may crash.
    command = [sys.executable, str(SCRIPT), "--count", "25", "--seed", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    _head, *rows = done.stdout.splitlines()
    found = {row.split()[0]: [int(count) for count in row.split()[1:]] for row in rows}
    assert set(found) == {"lce", "litert", "inspect", "cut", "convert", "export"}, done.stdout
    for answered, refused, *others in found.values():
        assert answered > 2
        assert refused > 8
        assert others == [0, 0, 0]
