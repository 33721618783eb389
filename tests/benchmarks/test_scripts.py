"""What all scripts with a command line have in common."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from larq_ensemble.console.options import FiniteFloat
from larq_ensemble.pretrained import names

from .conftest import ROOT, load

# Called by others, or TensorFlow is imported with the module.
NOT_HERE = {
    "cmsis_nn",
    "file_points",
    "damaged_files",
    "formats",
    "fusion_steps",
    "fusion_steps_torch",
    "input_pipeline",
    "intermittent",
    "page",
    "traces",
}
SCRIPTS = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - NOT_HERE


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_help_and_numbers_that_are_none(name, monkeypatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # scripts import each other
    main = load(name).main
    assert CliRunner().invoke(main, ["--help"]).exit_code == 0
    for option in main.params:
        if "F.tflite|NAME" in (option.metavar or ""):
            assert Path(option.type.convert(names()[0], option, None)).is_file()
        assert option.type not in (click.FLOAT, click.INT), option.name
        if isinstance(option.type, (click.FloatRange, click.IntRange)):
            assert isinstance(option.type, (FiniteFloat, click.IntRange)), option.name
            done = CliRunner().invoke(main, [option.opts[0], "nan"])
            assert done.exit_code == 2
            assert f"Invalid value for '{option.opts[0]}'" in done.output


def test_pages_have_a_place_for_what_scripts_write() -> None:
    found = []
    for script in (ROOT / "benchmarks").glob("*.py"):
        text = script.read_text("utf-8")
        for page in set(re.findall(r"--write (docs/\S+\.md)", text)):
            markers = re.findall('"(<!-- [^"]+ -->)"', text)
            kept = (ROOT / page).read_text("utf-8")
            for marker in markers:  # {} is a data set
                pattern = re.escape(marker).replace(re.escape("{}"), r"\w+")
                assert re.search(pattern, kept), (script.name, page, marker)
            found += markers
    assert len(found) >= 10
