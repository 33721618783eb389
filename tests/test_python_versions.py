"""All places that say which versions of Python work say the same, and plainly."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: What runs a file, and of these what trains and converts.
VERSIONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
FOR_ALL = "3.10, 3.11 or 3.12"


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 9, 18)])
def test_an_installation_elsewhere_names_the_versions(monkeypatch, version) -> None:
    monkeypatch.setattr("sys.version_info", version)
    with pytest.raises(SystemExit) as end:
        exec(compile((ROOT / "setup.py").read_text(encoding="utf-8"), "setup.py", "exec"))
    assert f"needs Python 3.10 or later to run files, and {FOR_ALL} to train" in str(end.value)
    assert f"This is Python {version[0]}.{version[1]}" in str(end.value)


def test_the_same_versions_everywhere() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    named = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    assert named == VERSIONS
    assert setup["options"]["python_requires"] == ">=3.10"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "(3, 10) <= sys.version_info[:2] <= (3, 12)" in makefile
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"Python {FOR_ALL}" in readme
    assert "3.10 to 3.14" in readme


def test_an_extra_that_needs_an_older_python_is_refused() -> None:
    """A marker on LCE would make pip leave it out without a word on Python 3.13."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"]
    (lce,) = re.findall(r"^larq-compute-engine.*$", extras["lce"], re.MULTILINE)
    assert ";" not in lce
    assert "larq-ensemble[lce]" in extras["convert"]
    assert "convert" in extras["train"]
