"""Emulated Cortex-M boards: builds bare-metal programs, runs them and counts their instructions.

Debian's cross compiler with newlib, and QEMU. The number of instructions is exact and the same on
every machine. It is no time: how many cycles one takes, flash wait states and caches are not in it.

    python -m larq_ensemble.convert.emulation     # prints the Debian packages that are missing
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from larq_ensemble.convert.programs import ProgramError, run_program
from larq_ensemble.errors import EnsembleError, UnknownNameError

#: What is shipped for the boards, C and linker scripts; `instructions.c` is QEMU's plugin.
SOURCES = Path(__file__).parent / "boards"
COMPILER, QEMU = "arm-none-eabi-gcc", "qemu-system-arm"
#: Files that a package brings, and Debian's name of it. newlib is asked of the compiler.
_PACKAGES = {COMPILER: "gcc-arm-none-eabi", QEMU: "qemu-system-arm", "cc": "gcc"}
_NEWLIB = "libnewlib-arm-none-eabi"
#: As users would build it for such a chip.
FLAGS = ("-std=c99", "-O2")


@dataclass(frozen=True)
class Board:
    """A board that QEMU emulates.

    # Arguments
        machine: QEMU's name of it.
        script: the linker script that has its memory.
        floats: whether the processor has an FPU.
    """

    machine: str
    script: str
    floats: bool = True


#: By the processor, as compilers name it.
BOARDS = {
    "cortex-m3": Board("mps2-an385", "mps2.ld", floats=False),
    "cortex-m4": Board("mps2-an386", "mps2.ld"),
    "cortex-m7": Board("mps2-an500", "mps2.ld"),
    "cortex-m33": Board("mps2-an505", "mps2-an505.ld"),
    "cortex-m55": Board("mps3-an547", "mps3-an547.ld"),
}
#: The processors that `export` counts on unless it is told others.
COUNTED = ("cortex-m4", "cortex-m7", "cortex-m33")


def checked_cpu(cpu: str) -> str:
    """A processor that has a board.

    # Raises
        UnknownNameError: if it has none.
    """
    if cpu not in BOARDS:
        raise UnknownNameError("cpu", cpu, BOARDS)
    return cpu


class EmulationError(EnsembleError):
    """A tool that is missing, or a program that doesn't build, or fails."""


def missing_packages(*, qemu: bool = True) -> list[str]:
    """Debian's packages that boards need and that this machine lacks.

    # Arguments
        qemu: whether to run programs, not only to build them.
    """
    programs = _PACKAGES if qemu else {COMPILER: _PACKAGES[COMPILER]}
    missing = [package for program, package in programs.items() if shutil.which(program) is None]
    return missing + ([] if _has_newlib() else [_NEWLIB])


def _has_newlib() -> bool:
    if shutil.which(COMPILER) is None:
        return False
    # The compiler answers with the bare name if it doesn't find the file.
    return os.path.sep in _call([COMPILER, "-print-file-name=rdimon.specs"])


def check_tools(*, qemu: bool = True) -> None:
    """Raises if a program is missing.

    # Raises
        EmulationError: with the packages to install.
    """
    if packages := missing_packages(qemu=qemu):
        raise EmulationError(
            f"Emulated boards need {', '.join(packages)}: on Debian or Ubuntu, as root, "
            f"apt-get install {' '.join(packages)}"
        )


def build(
    sources: Sequence[str | os.PathLike[str]],
    elf: str | os.PathLike[str],
    cpu: str,
    *,
    flags: Sequence[str] = FLAGS,
) -> Path:
    """Builds a program that runs on a board.

    # Arguments
        sources: C files, or objects of `compiled`.
        elf: where to write the program.
        cpu: a key of `BOARDS`.
        flags: for the compiler: the standard, optimization, `-I` folders, definitions.

    # Returns
        `elf`.

    # Raises
        EmulationError: if the compiler is missing or refuses the sources, with what it said.
    """
    board, elf = BOARDS[checked_cpu(cpu)], Path(elf)
    link = ["-nostartfiles", "--specs=rdimon.specs", f"-L{SOURCES}", f"-T{board.script}"]
    startup = SOURCES / "startup.c"
    _compile([*flags, *sources, startup, *link, "-Wl,--gc-sections", "-lm", "-o", elf], cpu)
    return elf


def compiled(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    cpu: str,
    *,
    flags: Sequence[str] = FLAGS,
) -> Path:
    """Compiles a C file for a processor to an object file.

    # Arguments
        source: the C file.
        target: where to write the object.
        cpu: a key of `BOARDS`.
        flags: for the compiler.

    # Returns
        `target`.

    # Raises
        EmulationError: if the compiler is missing or refuses the file, with what it said.
    """
    _compile([*flags, "-c", source, "-o", target], cpu)
    return Path(target)


def _compile(arguments: Sequence[str | os.PathLike[str]], cpu: str) -> None:
    if shutil.which(COMPILER) is None:
        check_tools(qemu=False)
    floats = "hard" if BOARDS[checked_cpu(cpu)].floats else "soft"
    target = ["-mthumb", f"-mcpu={cpu}", f"-mfloat-abi={floats}"]
    sections = ["-ffunction-sections", "-fdata-sections", f"-I{SOURCES}"]
    _call([COMPILER, *target, *sections, *arguments])


def sections(path: str | os.PathLike[str]) -> dict[str, int]:
    """Bytes of an object or a program by its sections: `.text`, `.rodata`, `.data`, `.bss`.

    `.rodata` of an object are its constants, `.text` its code.
    """
    sizes: dict[str, int] = {}
    for line in _call(["arm-none-eabi-size", "-A", path]).splitlines():
        if found := re.match(r"(\.(?:text|rodata|data|bss))\S*\s+(\d+)\s", line):
            sizes[found[1]] = sizes.get(found[1], 0) + int(found[2])
    return sizes


def run(
    elf: str | os.PathLike[str],
    cpu: str,
    arguments: Sequence[str] = (),
    *,
    folder: str | os.PathLike[str] | None = None,
    seconds: float | None = None,
    plugin: str | None = None,
) -> str:
    """Runs a program on a board.

    # Arguments
        elf: of `build`.
        cpu: for which it was built.
        arguments: of the program; without spaces.
        folder: in which it reads and writes files; `None`: the current one.
        seconds: after which it is stopped.
        plugin: of QEMU, with its options.

    # Returns
        What it wrote to standard output.

    # Raises
        EmulationError: if QEMU is missing, or the program fails, stops at a fault or takes too
            long.
    """
    elf = Path(elf).resolve()
    words = ",".join(f"arg={_option(word)}" for word in (elf.stem, *arguments))
    # With -kernel, QEMU takes the first word of the command line from its file.
    command = [QEMU, "-M", BOARDS[checked_cpu(cpu)].machine, "-display", "none", "-monitor", "none"]
    command += ["-serial", "none", "-semihosting-config", f"enable=on,target=native,{words}"]
    command += ["-kernel", os.fspath(elf), *(["-plugin", plugin] if plugin else [])]
    if shutil.which(QEMU) is None:
        check_tools()
    return _call(command, folder=folder, seconds=seconds)


def count(
    elf: str | os.PathLike[str],
    cpu: str,
    arguments: Sequence[str] = (),
    *,
    folder: str | os.PathLike[str] | None = None,
) -> tuple[str, list[int]]:
    """Runs a program and counts the instructions between its calls of the function `mark`.

    The first call starts an interval, the second ends it, the third starts the next, and so on. The
    first interval must be empty: it is what the marks take, and subtracted from the others.

    # Arguments
        elf, cpu, arguments, folder: as for `run`. The program has `void mark(void)`.

    # Returns
        What it wrote to standard output, and the instructions of each interval but the first.

    # Raises
        EmulationError: as for `run`, or if the program has no `mark`.
    """
    check_tools()
    symbols = _call(["arm-none-eabi-nm", elf])
    address = re.search(r"^(\w+) T mark$", symbols, re.MULTILINE)
    if address is None:
        raise EmulationError(f"{os.fspath(elf)!r} has no function `mark`: nothing can be counted.")
    with tempfile.TemporaryDirectory() as temporary:
        counter, counts = build_counter(temporary, QEMU), Path(temporary, "counts")
        plugin = f"file={_option(counter)},out={_option(counts)},mark=0x{address[1]}"
        output = run(elf, cpu, arguments, folder=folder, plugin=plugin)
        marks, *intervals = map(int, counts.read_text().split())
    return output, [interval - marks for interval in intervals]


def _option(value: str | os.PathLike[str]) -> str:
    """A value in a list of QEMU's, where a comma is two."""
    return os.fspath(value).replace(",", ",,")


def build_counter(folder: str | os.PathLike[str], qemu: str) -> Path:
    """Builds the plugin that counts instructions: `folder/counter.so`.

    # Arguments
        folder: where to write it.
        qemu: the program that will load it.
    """
    library = Path(folder, "counter.so")
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    flags += ["-fvisibility=hidden", f"-DPLUGIN_API={plugin_interface(qemu)}"]
    # On macOS the symbols of the program that loads a library have to be declared missing.
    if os.uname().sysname == "Darwin":
        flags += ["-undefined", "dynamic_lookup"]
    _call(["cc", *flags, "-o", library, SOURCES / "instructions.c"])
    return library


def plugin_interface(qemu: str) -> int:
    """The version of QEMU's plugin interface to ask for: QEMU 9 refuses the first one."""
    version = re.search(r"version (\d+)", _call([qemu, "--version"]))
    return 1 if version is not None and int(version[1]) < 9 else 2


def _call(
    command: Sequence[str | os.PathLike[str]],
    *,
    folder: str | os.PathLike[str] | None = None,
    seconds: float | None = None,
) -> str:
    """As `run_program`.

    # Raises
        EmulationError: if it fails.
    """
    try:
        return run_program(command, folder=folder, seconds=seconds)
    except ProgramError as error:
        raise EmulationError(str(error)) from error


if __name__ == "__main__":
    print(*missing_packages())
