"""The picture in docs/architecture.md is that of the import contracts in setup.cfg."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINE = "-----"


def contract(name: str) -> configparser.SectionProxy:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config[f"importlinter:contract:{name}"]


def picture() -> list[str]:
    """The first column of each line of the picture."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"<!-- layers.*?```text\n(.*?)```", text, re.DOTALL)
    return [line.split("  ")[0] for line in lines.splitlines()]


def modules(layers: list[str]) -> set[str]:
    return {name for layer in layers for name in re.split(r" [|:] ", layer)}


def test_layers_are_those_of_the_contract():
    layers = [layer for layer in picture() if not layer.startswith(LINE)]
    assert layers == contract("layers")["layers"].strip().splitlines()


def test_every_part_of_the_package_is_in_the_picture():
    layers = [layer for layer in picture() if not layer.startswith(LINE)]
    present = {
        path.stem
        for path in (ROOT / "larq_ensemble").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert modules(layers) == present - {"__init__", "__main__"}


def test_tensorflow_is_forbidden_below_the_line():
    layers = picture()
    (line,) = (index for index, layer in enumerate(layers) if layer.startswith(LINE))
    below = {f"larq_ensemble.{name}" for name in modules(layers[line + 1 :])}
    sources = set(contract("tensorflow")["source_modules"].split())
    assert {name for name in sources if name.count(".") == 1} == below
    assert {"tensorflow", "tf_keras", "larq"} <= set(
        contract("tensorflow")["forbidden_modules"].split()
    )
