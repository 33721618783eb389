"""The firmware with the shipped network on emulated boards counts what the simulation counts."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from larq_ensemble.convert import emulation
from larq_ensemble.convert.export import export_file
from larq_ensemble.runtime import EnsembleInterpreter

from .programs import ROOT, SHIPPED

FOLDER = ROOT / "examples" / "microcontroller"


@pytest.mark.skipif(
    bool(emulation.missing_packages()), reason=", ".join(emulation.missing_packages())
)
@pytest.mark.parametrize("cpu", ["cortex-m4", "cortex-m33"])
def test_firmware(cpu: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import harvesting
    import intermittent
    import traces

    device = intermittent.Device(
        capacity_nj=150_000_000,
        turn_on_nj=10_000_000,
        leakage_nw=15_000,
        sleep_nw=5000,
        period_ms=10_000,
        begin_nj=1_200_000,
        begin_ms=46,
        member_nj=3_600_000,
        member_ms=150,
    )
    # Dark, then from little light to more, then dark.
    power = np.concatenate([np.zeros(3), np.linspace(0, 1e7, 30), np.zeros(12)]).astype(int)
    trace = traces.Trace("day", (10_000 * np.arange(1, 46)).tolist(), power.tolist())
    logits = SimpleNamespace(ensemble=EnsembleInterpreter(SHIPPED))
    expected = harvesting.write_scenario(str(tmp_path / "scenario.h"), device, trace, logits, 15)
    counts = dict(re.findall(r"([a-z-]+) (\d+)", expected))
    # Else this tests less: members differ, and some images are missed.
    assert int(counts["answers"]) < int(counts["images"]) == 45
    assert int(counts["answers"]) + 10 < int(counts["members"]) < 8 * int(counts["answers"])

    export_file(SHIPPED, tmp_path)
    sources = [*FOLDER.glob("*.c"), tmp_path / "ensemble.c"]
    flags = [*emulation.FLAGS, "-Wall", "-Wextra", "-Werror", f"-I{FOLDER}", f"-I{tmp_path}"]
    elf = emulation.build(sources, tmp_path / "firmware.elf", cpu, flags=flags)
    assert emulation.run(elf, cpu) == f"{expected}\n"
