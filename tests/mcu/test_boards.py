"""Exported C on emulated Cortex-M boards, and on a machine with the other order of bytes, equals
the Python runtime: `make test-mcu`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.convert import emulation
from larq_ensemble.convert.export import export_file

from .programs import FILES, SHIPPED, Program, assert_same, digits, photos

#: A big-endian processor, and Debian's compiler and emulator for it.
BIG_ENDIAN = ("powerpc-linux-gnu-gcc", "qemu-ppc")

needs_boards = pytest.mark.skipif(
    bool(emulation.missing_packages()), reason=", ".join(emulation.missing_packages())
)


def run_on(cpu: str, program: Program) -> None:
    flags = [*emulation.FLAGS, f"-I{program.folder}"]
    elf = emulation.build(program.sources, program.folder / "answers.elf", cpu, flags=flags)
    emulation.run(elf, cpu, program.words, folder=program.folder)


@needs_boards
@pytest.mark.parametrize("cpu", emulation.COUNTED)
def test_a_thousand_images(cpu: str, tmp_path: Path) -> None:
    program = Program(FILES["indexed"], tmp_path, digits(FILES["indexed"], 1000))
    run_on(cpu, program)
    assert_same(program.answers(), program.expected())


@needs_boards
@pytest.mark.parametrize("cpu", emulation.BOARDS)
@pytest.mark.parametrize("name", FILES)
def test_each_file(name: str, cpu: str, tmp_path: Path) -> None:
    program = Program(FILES[name], tmp_path, digits(FILES[name], 10))
    run_on(cpu, program)
    assert_same(program.answers(), program.expected())


@needs_boards
@pytest.mark.parametrize("cpu", emulation.COUNTED)
def test_photos(cpu: str, tmp_path: Path) -> None:
    program = Program(SHIPPED, tmp_path, photos()[:2])
    run_on(cpu, program)
    assert_same(program.answers(), program.expected())


@needs_boards
@pytest.mark.parametrize("cpu", ["cortex-m3", "cortex-m4"])
def test_half_floats_are_the_same_on_a_board(cpu: str, tmp_path: Path) -> None:
    """With and without instructions for them."""
    name = "subgraphs"
    program = Program(FILES[name], tmp_path, digits(FILES[name], 10), activations="float16")
    answers = []
    for run in (run_on, run_on_big_endian) if shutil.which(BIG_ENDIAN[0]) else (run_on,):
        run(cpu, program)
        answers.append(program.answers("<" if run is run_on else ">").logits)
    expected = program.expected().logits
    assert all(np.std(found - expected) < 0.15 * np.std(expected) for found in answers)
    assert all(np.allclose(found, answers[0], atol=1e-4) for found in answers)


def run_on_big_endian(_: str, program: Program) -> None:
    compiler, qemu = BIG_ENDIAN
    command = [compiler, *emulation.FLAGS, "-static", f"-I{program.folder}", *program.sources]
    subprocess.run([*command, "-lm", "-o", program.folder / "answers"], check=True)
    subprocess.run([qemu, "answers", *program.words], check=True, cwd=program.folder)


@pytest.mark.skipif(not all(map(shutil.which, BIG_ENDIAN)), reason=", ".join(BIG_ENDIAN))
@pytest.mark.parametrize("name", FILES)
def test_the_order_of_bytes_does_not_matter(name: str, tmp_path: Path) -> None:
    program = Program(FILES[name], tmp_path, digits(FILES[name], 10))
    run_on_big_endian("", program)
    assert_same(program.answers(">"), program.expected())


@needs_boards
@pytest.mark.parametrize("name", FILES)
def test_the_stack_is_bounded(name: str, tmp_path: Path) -> None:
    """No function's frame depends on data, and none calls itself, by whatever way."""
    program = Program(FILES[name], tmp_path, digits(FILES[name], 1), cpus=["cortex-m4"])
    flags = [*emulation.FLAGS, f"-I{tmp_path}", "-fstack-usage", "-fcallgraph-info=su"]
    emulation.compiled(program.sources[0], tmp_path / "ensemble.o", "cortex-m4", flags=flags)
    frames = [line.split("\t")[1:] for line in (tmp_path / "ensemble.su").read_text().splitlines()]
    assert frames
    assert {kind for _, kind in frames} == {"static"}
    graph = (tmp_path / "ensemble.ci").read_text()
    calls: dict[str, set[str]] = {}
    for caller, callee in re.findall(r'sourcename: "([^"]+)" targetname: "([^"]+)"', graph):
        calls.setdefault(caller, set()).add(callee)
    size = {
        node: int(bytes)
        for node, bytes in re.findall(r'title: "([^"]+)" label: "[^"]*?(\d+) bytes', graph)
    }

    def deepest(function: str, path: tuple[str, ...] = ()) -> int:
        assert function not in path, f"{function} calls itself"
        below = [deepest(callee, (*path, function)) for callee in calls.get(function, ())]
        return size.get(function, 0) + max(below, default=0)

    bound = max(map(deepest, calls))
    assert 0 < bound <= 1024
    # And what libm takes, which the call graph doesn't know.
    assert program.report.costs["cortex-m4"].stack_bytes <= bound + 512


@needs_boards
def test_what_an_export_counts(tmp_path: Path) -> None:
    cost = export_file(FILES["indexed"], tmp_path, cpus=["cortex-m4"]).costs["cortex-m4"]
    again = export_file(FILES["indexed"], tmp_path, members=1, cpus=["cortex-m4"]).costs[
        "cortex-m4"
    ]
    # What the one member of a file of one does for each image, both files do.
    assert 0.9 < again.image + again.member < 1.1 * (cost.image + cost.member)
    assert 1000 < cost.code_bytes < 30_000
    assert 0 < cost.stack_bytes < 2000


@needs_boards
def test_instructions_are_counted_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a folder with a comma, which ends a value for QEMU."""
    tmp_path = tmp_path / "a, b"
    tmp_path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source = tmp_path / "loops.c"
    source.write_text(
        """
        void mark(void);
        __attribute__((noinline)) void mark(void) { __asm__ volatile(""); }
        static void loop(int count) {
          __asm__ volatile("1: subs %0, #1\\n bne 1b" : "+r"(count) : : "cc");
        }
        int main(void) {
          mark(); mark();
          mark(); loop(1000); mark();
          mark(); loop(11000); mark();
          return 0;
        }
        """
    )
    elf = emulation.build([source], tmp_path / "loops.elf", "cortex-m4")
    _, (few, many) = emulation.count(elf, "cortex-m4")
    assert many - few == 2 * 10_000
    assert abs(few - 2 * 1000) < 10


@needs_boards
def test_a_program_that_fails_is_an_error(tmp_path: Path) -> None:
    source, elf = tmp_path / "fails.c", tmp_path / "fails.elf"
    source.write_text("int main(int n, char **words) { return *words[n - 1] - '0'; }")
    emulation.build([source], elf, "cortex-m33")
    assert emulation.run(elf, "cortex-m33", ["0"]) == ""
    with pytest.raises(emulation.EmulationError, match=r"failed \(3\)"):
        emulation.run(elf, "cortex-m33", ["3"])
    source.write_text("int main(void) { return *(volatile int *)0xb0000000; }")
    emulation.build([source], elf, "cortex-m4")
    with pytest.raises(emulation.EmulationError, match="stopped at a fault"):
        emulation.run(elf, "cortex-m4")
