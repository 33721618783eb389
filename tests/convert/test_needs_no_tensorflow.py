"""Everything but the front end and what compares with Keras works without TensorFlow."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Modules and folders of `larq_ensemble.convert` that do need it.
NEED = {"agreement", "conversion", "frontend", "quantization", "verification"}
MODULES = [path.relative_to(ROOT / "convert") for path in (ROOT / "convert").rglob("*.py")]
WITHOUT = sorted(
    ".".join(("larq_ensemble.convert", *path.with_suffix("").parts)).removesuffix(".__init__")
    for path in MODULES
    if path.parts[0].removesuffix(".py") not in NEED
)


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


def test_the_import_contract_names_no_others() -> None:
    """It names fewer: of a command, imports within functions count, too."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    named = config["importlinter:contract:compiler"]["source_modules"].split()
    assert "larq_ensemble.convert.passes" in named
    assert set(named) <= set(WITHOUT)
    assert {path.parts[0].removesuffix(".py") for path in MODULES} > NEED


def test_exports() -> None:
    import larq_ensemble.convert as package

    assert set(package.__all__) <= set(dir(package))
    assert all(callable(getattr(package, name)) for name in package.__all__)
