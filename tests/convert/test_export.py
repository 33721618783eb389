"""`larq-ensemble export`: the files it writes, its report, and that they answer as the runtime."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from larq_ensemble.cli import cli
from larq_ensemble.convert import emulation
from larq_ensemble.convert.export import Macs, export_file
from larq_ensemble.errors import EnsembleError, UnknownNameError

from ..c_compiler import SANITIZERS, compile_c
from ..mcu.programs import FILES, ROOT, SHIPPED, Program, assert_same, digits

INDEXED = FILES["indexed"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["export", *map(str, arguments)])


def test_only_its_own_two_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text("mine")
    export_file(INDEXED, tmp_path, members=1)
    report = export_file(INDEXED, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ensemble.c",
        "ensemble.h",
        "main.c",
    ]
    assert (tmp_path / "main.c").read_text() == "mine"
    assert list(report.files) == [str(tmp_path / "ensemble.h"), str(tmp_path / "ensemble.c")]
    header = (tmp_path / "ensemble.h").read_text()
    assert f"#define ENSEMBLE_ARENA_BYTES {report.arena_bytes}\n" in header.replace(" /*", "\n/*")


def test_what_no_export_wrote_is_kept(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text("int main(void) { return 0; }\n")
    with pytest.raises(EnsembleError, match=r"`out` has a file 'main\.c' that no export wrote"):
        export_file(INDEXED, tmp_path, name="main")
    assert [path.name for path in tmp_path.iterdir()] == ["main.c"]
    assert (tmp_path / "main.c").read_text() == "int main(void) { return 0; }\n"


@pytest.mark.parametrize("name", ["ensemble.c", "ensemble.h"])
def test_a_file_is_no_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(EnsembleError, match="is the name of a file"):
        export_file(INDEXED, tmp_path / name)


def test_names_begin_with_the_name(tmp_path: Path) -> None:
    export_file(INDEXED, tmp_path, name="birds")
    header = (tmp_path / "birds.h").read_text()
    assert "int birds_begin(void *arena" in header
    assert "#define BIRDS_MEMBERS 3" in header


def test_multiply_accumulates_are_those_of_the_network(tmp_path: Path) -> None:
    """ResNet-20 of 4, 8 and 16 channels on 8x8 pixels; the shortcuts have binary filters."""
    macs = export_file(INDEXED, tmp_path).macs
    stem = 8 * 8 * 9 * 3 * 4
    blocks = [(8, 4, 4)] * 6 + [(4, 4, 8)] + [(4, 8, 8)] * 5 + [(2, 8, 16)] + [(2, 16, 16)] * 5
    binary = sum(size * size * 9 * inputs * outputs for size, inputs, outputs in blocks)
    shortcuts = 4 * 4 * 4 * 8 + 2 * 2 * 8 * 16
    head = 16 * 5
    total = macs["image"].binary + macs["member"].binary, macs["image"].real + macs["member"].real
    assert sum(total) == stem + binary + shortcuts + head
    assert macs["image"] == Macs(0, stem)


def test_a_network_of_the_package_has_a_name(tmp_path: Path) -> None:
    named = export_file(SHIPPED.stem, tmp_path / "named")
    assert named.bytes == export_file(SHIPPED, tmp_path / "path").bytes


def test_a_file_of_fewer_members_is_smaller(tmp_path: Path) -> None:
    whole = export_file(INDEXED, tmp_path)
    two = export_file(INDEXED, tmp_path, members=2)
    one = export_file(INDEXED, tmp_path, members=1)
    assert (whole.members, two.members, one.members) == (3, 2, 1)
    assert one.bytes < two.bytes < whole.bytes
    assert two.flash["binary filters"] == whole.flash["binary filters"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": 4}, "`members` must be a whole number from 1 to 3, got 4"),
        ({"name": "1st"}, "`name` must be letters, digits and _"),
        ({"activations": "int8"}, "Unknown activations 'int8'"),
    ],
)
def test_bad_arguments(arguments: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(EnsembleError, match=message):
        export_file(INDEXED, tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_an_unknown_processor(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"'cortex-a9'.*cortex-m3, cortex-m33"):
        export_file(INDEXED, tmp_path, cpus=["cortex-a9"])


@pytest.mark.parametrize("name", ["branches", "stock"])
def test_files_of_other_forms_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(EnsembleError, match="convert"):
        export_file(ROOT / f"tests/data/{name}.tflite", tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_tools_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulation.shutil, "which", lambda program: None)
    done = run(INDEXED, "--out", tmp_path / "c", "--json", tmp_path / "report.json")
    assert done.exit_code == 0
    assert "gcc-arm-none-eabi" in done.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["instructions"] == {}
    assert report["agreement"] is None
    assert "There is no C compiler" in report["not_compared"]
    assert report["bytes"] == sum(report["flash"].values())
    asked = run(INDEXED, "--out", tmp_path / "d", "--cpu", "cortex-m4")
    assert asked.exit_code == 1
    assert "apt-get install" in asked.output
    assert not (tmp_path / "d").exists()


def test_tools_that_fail_keep_nobody_from_exporting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it was asked for counts."""

    def fails(*_: object, **__: object) -> str:
        raise emulation.EmulationError("QEMU has no plugins")

    monkeypatch.setattr("larq_ensemble.convert.commands.export.missing_packages", list)
    monkeypatch.setattr(emulation, "check_tools", lambda **_: None)
    monkeypatch.setattr(emulation, "_call", fails)
    done = run(INDEXED, "--out", tmp_path / "c")
    assert done.exit_code == 0
    assert "No instructions are counted: QEMU has no plugins" in done.output
    assert (tmp_path / "c" / "ensemble.c").exists()
    asked = run(INDEXED, "--out", tmp_path / "d", "--cpu", "cortex-m4")
    assert asked.exit_code == 1
    assert not (tmp_path / "d").exists()


def test_no_count_and_a_processor_contradict(tmp_path: Path) -> None:
    done = run(INDEXED, "--out", tmp_path / "c", "--cpu", "cortex-m4", "--no-count")
    assert done.exit_code == 2
    assert "--no-count" in done.output


@pytest.mark.parametrize("name", ["compact", "subgraphs", "weighted"])
def test_the_program_answers_as_the_runtime(name: str, tmp_path: Path) -> None:
    program = Program(FILES[name], tmp_path, digits(FILES[name], 10))
    compiled = compile_c(tmp_path, *program.sources, "-O0", *SANITIZERS, "-lm")
    subprocess.run([compiled, *program.words], check=True, cwd=tmp_path)
    assert_same(program.answers(), program.expected())


def test_the_c_of_the_guide_compiles(tmp_path: Path) -> None:
    export_file(SHIPPED, tmp_path)
    guide = (ROOT / "docs" / "microcontrollers.md").read_text(encoding="utf-8")
    program, arena, policy = re.findall("```c\n(.*?)```", guide, re.DOTALL)
    (tmp_path / "program.c").write_text(program)
    (tmp_path / "policy.c").write_text(
        '#include "ensemble.h"\n#include "power_policy.h"\nuint16_t volts_mv(void);\n'
        f"{arena}unsigned members_now(void);\nunsigned members_now(void) {{\n{policy}"
        "  (void)arena;\n  return members;\n}\n"
    )
    include = f"-I{ROOT / 'examples' / 'microcontroller'}"
    compile_c(tmp_path, "program.c", "policy.c", "-fsyntax-only", include)
