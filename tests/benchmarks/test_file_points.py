"""What a run is called on the frontier, and on which cores its file is counted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runs import RunConfig

from .conftest import load

file_points = load("file_points")
FILE = Path("network.tflite")


def config(kind: str = "ensemble", name: str = "resnet20", width: float = 1.0, **ensemble: str):
    return RunConfig(kind, {"name": name, "width": width}, {}, {}, 0, ensemble=ensemble)


@pytest.mark.parametrize(
    ("run", "kind", "name"),
    [
        (config(sharing="fusion"), "shared", "ResNet-20, shared filters"),
        (config(sharing="none"), "separate", "ResNet-20, separate members"),
        (config(sharing="none", initial="random"), "benn", "ResNet-20, BENN"),
        (config("backbone"), "single", "ResNet-20"),
        (config("backbone", width=1.5), "wider", "ResNet-20 x 1.5"),
        (config("backbone", "resnet20_relu", 0.5), "float", "ResNet-20 with ReLU, float"),
    ],
)
def test_what_a_run_is(run, kind, name) -> None:
    assert file_points.kind_of(run) == kind
    model = run.model
    assert file_points.series(model["name"], model["width"], kind) == name


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Any:
    """On an A72 and two microcontrollers, with counts of this test in place of the emulators'."""
    row = {"instructions_once": 10, "instructions_member": 100}
    exported = SimpleNamespace(
        costs={
            "cortex-m4": SimpleNamespace(image=20, member=200),
            "cortex-m55": SimpleNamespace(image=30, member=300),
        }
    )
    int8 = {"costs": {"cortex-m4": {"instructions": 4}, "cortex-m55": {"instructions": 5}}}
    monkeypatch.setattr(file_points, "litert_row", lambda *_: row)
    monkeypatch.setattr(file_points, "export_file", lambda *_, **__: exported)
    monkeypatch.setattr(file_points, "int8_row", lambda *_: int8)
    monkeypatch.setattr(file_points.emulation, "check_tools", lambda: None)
    monkeypatch.setattr(file_points, "kernel_sources", lambda clone: [])

    cores = ("cortex-m4", "cortex-a72", "cortex-m55")
    return file_points.Measuring(Path(), "test", None, None, cores, None, "clone")


def test_each_core_has_its_counter(measuring) -> None:
    a72 = {"cortex-a72": (10, 100)}
    binarized = {"cortex-m4": (20, 200), "cortex-m55": (30, 300)}
    assert measuring._counts(FILE, None) == a72 | binarized
    int8 = {"cortex-m4": (0, 4), "cortex-m55": (0, 5)}
    assert measuring._counts(FILE, "int8") == a72 | int8
    assert measuring._counts(FILE, "int4") == a72


def test_what_cmsis_nn_has_no_kernel_for_has_no_count(measuring, monkeypatch) -> None:
    def refused(*_: Any) -> None:
        raise file_points.NoKernelError("PRELU of int8 can't be written for CMSIS-NN.")

    monkeypatch.setattr(file_points, "int8_row", refused)
    assert [*measuring._counts(FILE, "int8")] == ["cortex-a72"]


def test_what_is_missing_is_said_before_anything_is_measured(monkeypatch) -> None:
    def missing() -> None:
        raise file_points.emulation.EmulationError("apt-get install qemu-system-arm")

    monkeypatch.setattr(file_points.emulation, "check_tools", missing)
    rest = (Path(), "test", None, None)
    with pytest.raises(EnsembleError, match=r"`cmsis_nn` is missing.*cortex-m4.*git clone"):
        file_points.Measuring(*rest, ("cortex-m4",), None, None)
    with pytest.raises(EnsembleError, match="'clone', which holds no CMSIS-NN"):
        file_points.Measuring(*rest, ("cortex-m4",), None, "clone")
    monkeypatch.setattr(file_points, "kernel_sources", lambda clone: [])
    with pytest.raises(EnsembleError, match="qemu"):
        file_points.Measuring(*rest, ("cortex-m4",), None, "clone")
    file_points.Measuring(*rest, ("cortex-a72",), None, None)
