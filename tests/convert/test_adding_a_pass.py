"""The page on adding a pass is true: its pass runs, in the pipeline too, and its test passes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from larq_ensemble.convert import passes, pipeline
from larq_ensemble.convert.inspection import inspect_file
from larq_ensemble.convert.pipeline import Step

from .conftest import Converted, converted

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-pass.md"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The page's pass as a module of `passes`."""
    module = ModuleType("larq_ensemble.convert.passes.reshape_chains")
    exec(snippets()[0], vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(passes, "reshape_chains", module, raising=False)
    return module


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_its_test_passes(example: ModuleType) -> None:
    test = {"__package__": f"{__package__}.passes"}  # as in the file that the page names
    exec(snippets()[1], test)
    test["test_two_reshapes_are_one"]()


def test_it_runs_in_the_pipeline(
    example: ModuleType, fusion: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = pipeline.PIPELINE
    monkeypatch.setattr(pipeline, "PIPELINE", (first, Step(example.run), *others))
    case = converted(fusion.model, tmp_path)
    assert inspect_file(case.path).metadata["members"] == 3
