"""A converted file as C source for microcontrollers, and what that takes there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from larq_ensemble.convert import emulation
from larq_ensemble.convert.comparison import Agreement, some_images
from larq_ensemble.convert.cutting import cut
from larq_ensemble.convert.host import HostError, check_source
from larq_ensemble.convert.targets.c.plan import BinaryConvolution, FilterStep, Plan
from larq_ensemble.convert.targets.c.planning import plan_ensemble
from larq_ensemble.convert.targets.c.source import arena_bytes, c_sources, flash_bytes
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import check_output, check_output_folder, write_text
from larq_ensemble.runtime.file import checked_ensemble, read_ensemble

_MARK = "Written by larq-ensemble"  # in all that `c_sources` writes
_NAME = "ensemble"  # of the program that is compared and counted: boards/*.c include it
_PIXELS = "image.bin"


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of convolutions and linear layers.

    # Arguments
        binary: of signs by signs.
        real: of numbers.
    """

    binary: int
    real: int


@dataclass(frozen=True)
class Cost:
    """What a program takes on a processor, as gcc's `emulation.FLAGS` compile it.

    # Arguments
        image: instructions once an image: what members share.
        member: instructions of a member after that. They depend on the signs in its maps: counted
            is the first member, on a random image with the spectrum of photographs. Of the photos
            that come with the package, the first five took 1 % less to 7 % more.
        code_bytes: of flash, without constants and what it takes from libm and libc.
        stack_bytes: the most that a prediction by several members took.
    """

    image: int
    member: int
    code_bytes: int
    stack_bytes: int


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote.

    # Arguments
        files: the paths of the header and the source.
        members: M.
        activations: the number format of maps of floats.
        flash: bytes of constants by purpose.
        arena_bytes: bytes of RAM that the program is given.
        macs: `"image"`: once an image, `"member"`: of a member after that. Products with padding
            count.
        costs: by processor; empty: not counted.
        agreement: how the source, compiled for this machine, compares with the runtime on a few
            images; `None` if that can't be done here.
        not_compared: why not; `None` if it was.
    """

    files: tuple[str, ...]
    members: int
    activations: str
    flash: Mapping[str, int]
    arena_bytes: int
    macs: Mapping[str, Macs]
    costs: Mapping[str, Cost] = field(default_factory=dict)
    agreement: Agreement | None = None
    not_compared: str | None = None

    @property
    def bytes(self) -> int:
        """Bytes of all constants."""
        return sum(self.flash.values())

    def to_dict(self) -> dict[str, Any]:
        """As `export --json` gives it."""

        def by_cpu(name: str) -> dict[str, int]:
            return {cpu: getattr(cost, name) for cpu, cost in self.costs.items()}

        return {
            "files": list(self.files),
            "members": self.members,
            "activations": self.activations,
            "bytes": self.bytes,
            "flash": dict(self.flash),
            "arena_bytes": self.arena_bytes,
            "code_bytes": by_cpu("code_bytes"),
            "stack_bytes": by_cpu("stack_bytes"),
            "macs": {part: asdict(macs) for part, macs in self.macs.items()},
            "instructions": {
                cpu: {"image": cost.image, "member": cost.member}
                for cpu, cost in self.costs.items()
            },
            "agreement": None if self.agreement is None else self.agreement.to_dict(),
            "not_compared": self.not_compared,
        }


def export_file(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    name: str = _NAME,
    members: int | None = None,
    activations: str = "float32",
    cpus: Sequence[str] = (),
) -> ExportReport:
    """Writes an ensemble as C99 source that needs no other library than C's.

    Needs neither TensorFlow nor LCE. Other files in the folder stay as they are.

    Where there is a C compiler, `cc`, and a back end that runs the file, the source is compiled for
    this machine before it is written, and its logits are compared with those of the file
    (`larq_ensemble.convert.host`).

    # Arguments
        path: a file that `convert` wrote for LCE, in the layout `"indexed"` or `"subgraphs"`, or
            the name of a network that comes with the package.
        out: the folder of `NAME.h` and `NAME.c`, which are replaced only on success, and only if
            an export wrote them.
        name: of the files, and what the names of functions and macros begin with.
        members: only the first m members; `None`: all.
        activations: number format of the maps of numbers in RAM, `"float32"` or `"float16"`. The
            second takes half the RAM; values are rounded where they are stored.
        cpus: processors whose instructions, stack and code are counted by emulation, keys of
            `larq_ensemble.convert.emulation.BOARDS`. That takes a second each, and a cross
            compiler and QEMU.

    # Raises
        EnsembleError: if the file can't be read or has an operator that isn't supported, an
            argument is out of range, `out` can't be written, or the source computes something else
            than the file.
        EmulationError: for `cpus` without these tools.

    # Example
    ```python
    report = export_file("ensemble.tflite", "firmware/ensemble", cpus=["cortex-m4"])
    report.bytes, report.arena_bytes, report.costs["cortex-m4"].member
    ```
    """
    folder = check_output_folder(out)
    cpus = [emulation.checked_cpu(cpu) for cpu in dict.fromkeys(cpus)]
    if cpus:
        emulation.check_tools()
    file = read_ensemble(path)
    if members is not None and members != file.metadata.members:
        metadata = file.metadata.first(members)
        file = checked_ensemble(cut(file.data, metadata))
    plan = plan_ensemble(file, activations=activations)
    sources = c_sources(plan, file.metadata, name)
    for each in sources:
        _check_replaceable(folder / each)
    program = sources if name == _NAME else c_sources(plan, file.metadata, _NAME)
    agreement = not_compared = None
    try:
        agreement = check_source(program, file, activations)
    except HostError as error:
        not_compared = str(error)
    costs = {}
    if cpus:
        costs = count_costs(program, cpus, some_images(file.metadata.input_shape)[0])
    for each, text in sources.items():
        write_text(folder / each, text)
    return ExportReport(
        files=tuple(str(folder / each) for each in sources),
        members=plan.members,
        activations=activations,
        flash=flash_bytes(plan),
        arena_bytes=arena_bytes(plan),
        macs={"image": _macs(plan, shared=True), "member": _macs(plan, shared=False)},
        costs=costs,
        agreement=agreement,
        not_compared=not_compared,
    )


def _check_replaceable(path: Path) -> None:
    """Raises if no file can be written there, or one that isn't ours would be lost."""
    check_output(path, "out")
    if path.exists() and _MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise EnsembleError(
            f"`out` has a file {path.name!r} that no export wrote, and it would be lost: give "
            "another folder, or another `name`."
        )


def count_costs(
    sources: Mapping[str, str],
    cpus: Sequence[str],
    image: np.ndarray,
    *,
    flags: Sequence[str] = emulation.FLAGS,
) -> dict[str, Cost]:
    """Counts what an exported program takes on emulated boards.

    # Arguments
        sources: of `c_sources` under its default name.
        cpus: keys of `larq_ensemble.convert.emulation.BOARDS`.
        image: uint8 `[height, width, channels]`.
        flags: for the compiler.

    # Raises
        EmulationError: if a tool is missing, or the program doesn't compile or fails.
    """
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor() as pool:
        folder = Path(temporary)
        for name, text in sources.items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / _PIXELS).write_bytes(image.astype(np.uint8).tobytes())
        return dict(zip(cpus, pool.map(lambda cpu: _cost(folder, cpu, flags), cpus), strict=True))


def _cost(folder: Path, cpu: str, flags: Sequence[str]) -> Cost:
    flags = [*flags, f"-I{folder}"]
    ensemble = emulation.compiled(folder / f"{_NAME}.c", folder / f"{cpu}.o", cpu, flags=flags)
    program = [ensemble, emulation.SOURCES / "counting.c"]
    elf = emulation.build(program, folder / f"{cpu}.elf", cpu, flags=flags)
    stack, (image, member) = emulation.count(elf, cpu, [_PIXELS], folder=folder)
    return Cost(
        image=image,
        member=member,
        code_bytes=emulation.sections(ensemble)[".text"],
        stack_bytes=int(stack),
    )


def _macs(plan: Plan, *, shared: bool) -> Macs:
    binary = real = 0
    for step in plan.steps:
        if step.shared != shared or not isinstance(step, FilterStep):
            continue
        products = step.window.height * step.window.width * step.input.channels // step.groups
        macs = step.height * step.width * step.channels * products
        if isinstance(step, BinaryConvolution):
            binary += macs
        else:
            real += macs
    return Macs(binary, real)
