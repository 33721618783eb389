"""Everything but the front end and what compares with Keras works without TensorFlow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WITHOUT = [
    "larq_ensemble.convert",
    *(
        f"larq_ensemble.convert.{name}"
        for name in (
            *("benchmarking", "categories", "comparison", "cutting", "emulation", "export"),
            *("file_conversion", "host"),
            *("inspection", "pipeline", "report"),
        )
    ),
    *(
        f"larq_ensemble.convert.{folder}.{path.stem}"
        for folder in ("ir", "passes", "targets")
        for path in sorted((ROOT / "convert" / folder).glob("*.py"))
        if path.stem != "__init__"
    ),
]


def test_modules_and_exports() -> None:
    code = f"""
import importlib, sys
for name in {WITHOUT!r}:
    importlib.import_module(name)
from larq_ensemble.convert import benchmark, convert_file, cut_file, inspect_file
assert all(map(callable, (benchmark, convert_file, cut_file, inspect_file)))
found = {{"tensorflow", "tf_keras", "keras", "larq"}} & set(sys.modules)
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_there_are_all_of_them() -> None:
    assert len(WITHOUT) > 25


def test_exports() -> None:
    import larq_ensemble.convert as package

    assert set(package.__all__) <= set(dir(package))
    assert all(callable(getattr(package, name)) for name in package.__all__)
