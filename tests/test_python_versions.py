"""All places that say which versions of Python work say the same, and plainly."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERSIONS = ["3.10", "3.11", "3.12"]


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 13, 0), (4, 0, 0)])
def test_an_installation_elsewhere_names_the_versions(monkeypatch, version) -> None:
    monkeypatch.setattr("sys.version_info", version)
    with pytest.raises(SystemExit) as end:
        exec(compile((ROOT / "setup.py").read_text(encoding="utf-8"), "setup.py", "exec"))
    assert "needs Python 3.10, 3.11 or 3.12" in str(end.value)
    assert f"This is Python {version[0]}.{version[1]}" in str(end.value)


def test_the_same_versions_everywhere() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    named = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    assert named == VERSIONS
    assert setup["options"]["python_requires"] == ">=3.10,<3.13"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    range_ = "(3, 10) <= sys.version_info[:2] <= (3, 12)"
    assert range_ in makefile
    assert range_ in (ROOT / "setup.py").read_text(encoding="utf-8")
    assert "Python 3.10, 3.11 or 3.12" in (ROOT / "README.md").read_text(encoding="utf-8")
