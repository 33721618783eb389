"""The tools for emulated ARM, without the emulation: that is `make test-arm`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from larq_ensemble.errors import UnknownNameError
from larq_ensemble.ir.flatbuffer import read

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[ModuleType, ModuleType]:
    """`userland` and `count` of tools/arm, with a folder of their own."""
    monkeypatch.syspath_prepend(ROOT / "tools" / "arm")
    import count
    import userland

    monkeypatch.setattr(userland, "ARM", tmp_path / ".arm")
    return userland, count


def test_a_folder_is_made_once_and_again_of_other_ingredients(tools) -> None:
    userland, _ = tools
    calls = []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "content").write_text(str(len(calls)))

    for ingredients in ("a", "a", "b"):
        folder = userland.made("part", ingredients, make)
    assert len(calls) == 2
    assert (folder / "content").read_text() == "2"
    assert folder not in calls  # it is filled elsewhere, and renamed


def test_an_interruption_leaves_nothing_that_counts_as_made(tools) -> None:
    userland, _ = tools

    def interrupted(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    userland.made("part", "a", lambda folder: (folder / "old").touch())
    with pytest.raises(KeyboardInterrupt):
        userland.made("part", "b", interrupted)
    folder = userland.made("part", "b", lambda folder: (folder / "whole").touch())
    assert [path.name for path in folder.iterdir()] == ["whole"]


def test_what_the_host_lacks_is_said(tools, monkeypatch: pytest.MonkeyPatch) -> None:
    userland, _ = tools
    monkeypatch.setattr(userland.shutil, "which", lambda program: None)
    with pytest.raises(userland.UserlandError, match=r"qemu-user, gcc-aarch64-linux-gnu.* apt-get"):
        userland.build()
    script = ROOT / "tools" / "arm" / "test.py"
    done = subprocess.run(
        [sys.executable, script, "--missing"], env={"PATH": ""}, capture_output=True, text=True
    )
    assert (done.returncode, "qemu-user" in done.stdout.split()) == (0, True)


@pytest.mark.parametrize("kernel", ["delegate", "builtin"])
def test_the_graphs_that_run_are_counted(tools, monkeypatch, kernel: str) -> None:
    _, count = tools
    counted: list[list[str]] = []

    def instructions(models: Sequence[bytes], *_: object) -> list[int]:
        graphs = [read(model).graph for model in models]
        counted.append([graph.signature.key for graph in graphs])
        has_binary = any(op.name.startswith("Lce") for graph in graphs for op in graph.operators)
        assert has_binary == (kernel == "delegate")
        return [1000, 7][: len(models)]

    monkeypatch.setattr(count, "instructions", instructions)

    def result(name: str, **options: str) -> dict[str, object]:
        path = DATA / f"{name}.tflite"
        return count.count(path, "cortex-a72", kernel, delegate=Path("d.so"), **options)

    indexed = result("indexed")
    assert indexed["instructions_ensemble"] == 7 + 3 * 1000
    assert indexed["bytes"] == (DATA / "indexed.tflite").stat().st_size
    branches = result("branches")
    assert (branches["instructions_once"], branches["instructions_ensemble"]) == (1000, 1000)
    assert result("subgraphs", signature="rest_2")["instructions"] == 1000
    assert counted == [["rest", "prefix"], ["serving_default"], ["rest_2"]]
    with pytest.raises(UnknownNameError, match="member_9"):
        result("subgraphs", signature="member_9")


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("interface", [1, 2])
def test_the_plugin_compiles_without_a_warning(compiler: str, interface: int, tmp_path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fPIC", "-shared"]
    source = ROOT / "convert" / "boards" / "instructions.c"
    target = ["-o", tmp_path / "counter.so", f"-DPLUGIN_API={interface}"]
    subprocess.run([compiler, *flags, *target, source], check=True)
