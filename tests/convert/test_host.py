"""What `export` is about to write, compiled for this machine, against the runtime."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from larq_ensemble.cli import cli
from larq_ensemble.convert import host
from larq_ensemble.convert.export import export_file
from larq_ensemble.convert.targets.c import fusion
from larq_ensemble.convert.targets.c.plan import Elementwise, Store
from larq_ensemble.convert.targets.c.planning import plan_ensemble
from larq_ensemble.convert.targets.c.source import c_sources
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.file import EnsembleFile, read_ensemble

from ..mcu.programs import FILES
from .targets.c.test_operators import NETWORKS, ensemble

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="cc isn't installed")


@pytest.fixture
def weighted() -> EnsembleFile:
    return read_ensemble(FILES["weighted"])


def takes_signs_for_slices(step: Elementwise) -> bool:
    return isinstance(step.epilogue[0], Store) and step.channels == step.input.channels


@needs_compiler
def test_a_wrong_plan_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signs that a convolution reads were dropped once."""
    tflite, out = tmp_path / "signs.tflite", tmp_path / "c"
    tflite.write_bytes(ensemble(NETWORKS["real shortcut of signs"])[1])
    monkeypatch.setattr(fusion, "_is_slice", takes_signs_for_slices)
    done = CliRunner().invoke(cli, ["export", str(tflite), "--out", str(out), "--no-count"])
    assert done.exit_code == 1
    assert "The exported C doesn't compute what the file computes" in done.output
    assert "the logits of member 0 differ by " in done.output
    assert not out.exists()
    monkeypatch.undo()
    export_file(tflite, out)


@needs_compiler
@pytest.mark.parametrize("activations", ["float32", "float16"])
def test_the_deviation_is_reported(tmp_path: Path, activations: str) -> None:
    where = ["--out", str(tmp_path / "c"), "--json", str(tmp_path / "report.json")]
    arguments = [str(FILES["indexed"]), *where, "--no-count", "--activations", activations]
    done = CliRunner().invoke(cli, ["export", *arguments, "--name", "birds"])
    assert done.exit_code == 0
    assert "of their length on 8 random images" in " ".join(done.output.split())
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["not_compared"] is None
    agreement = report["agreement"]
    assert (agreement["images"], agreement["members"]) == (8, [0, 1, 2])
    if activations == "float32":
        assert max(agreement["deviation"]) < 1e-5 < agreement["limit"]
    else:
        assert 1e-5 < max(agreement["deviation"]) < 0.1
        assert agreement["limit"] == 0.8


def test_without_a_compiler_nothing_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_COMPILER", "no-cc")
    arguments = [str(FILES["weighted"]), "--out", str(tmp_path), "--no-count"]
    done = CliRunner().invoke(cli, ["export", *arguments])
    assert done.exit_code == 0
    assert "Not compared with the runtime: There is no C compiler" in done.output
    assert (tmp_path / "ensemble.c").exists()


@needs_compiler
def test_without_a_back_end_nothing_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise EnsembleError("Neither LiteRT nor LCE is installed.")

    monkeypatch.setattr(host, "member_logits", missing)
    report = export_file(FILES["weighted"], tmp_path)
    assert (report.agreement, report.not_compared) == (None, "Neither LiteRT nor LCE is installed.")


@needs_compiler
def test_what_fails(weighted: EnsembleFile) -> None:
    """A compiler that fails says nothing about the source, a program that fails does."""
    sources = c_sources(plan_ensemble(weighted), weighted.metadata)
    code = sources["ensemble.c"]
    broken = {**sources, "ensemble.c": f"#error no headers\n{code}"}
    with pytest.raises(host.HostError, match=r"cc .* failed \(1\): [\s\S]*no headers"):
        host.check_source(broken, weighted, "float32")
    fails = code.replace("state->begun = kBegun;", "")
    assert fails != code
    with pytest.raises(EnsembleError, match=r"its program fails \(1\)\. Nothing was written"):
        host.check_source({**sources, "ensemble.c": fails}, weighted, "float32")
