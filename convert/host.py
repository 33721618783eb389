"""Exported C on this machine, and whether it computes what its file computes.

A wrong plan gives wrong logits and no error. So `export` compiles what it is about to write, runs
it on a few images, and compares the logits with those of the runtime. The measure is the deviation
that `larq_ensemble.convert.comparison` defines.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from larq_ensemble.convert import emulation
from larq_ensemble.convert.comparison import Agreement, member_logits, some_images
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.file import EnsembleFile
from larq_ensemble.runtime.metadata import EnsembleMetadata

#: The largest deviation of correct source with maps of float32. Measured over the networks of the
#: package, `tests/data`, and untrained ones: at most 7e-7, and with maps of float16 0.2. Unrelated
#: logits deviate by 1.4.
LIMIT = 0.01
_COMPILER = "cc"
#: Products and sums are rounded one by one. -O2 compiles longer, and runs no faster.
_FLAGS = ("-std=c99", "-O1", "-ffp-contract=off")


class HostError(EnsembleError):
    """This machine can't compile or run C, so nothing is known about the source."""


def check_source(sources: Mapping[str, str], file: EnsembleFile, activations: str) -> Agreement:
    """Compares the logits of all members by exported source and by the runtime.

    # Arguments
        sources: of `c_sources` under its default name.
        file: of which they were made.
        activations: the number format of their maps. With `"float16"` many signs flip by rounding,
            so nothing is refused.

    # Raises
        HostError: without a C compiler or a back end, so that nothing is compared.
        EnsembleError: if a member's deviation is above the limit, or the program fails.
    """
    members = [*range(file.metadata.members)]
    images = some_images(file.metadata.input_shape)
    ours = exported_logits(sources, file.metadata, images)
    try:
        expected = member_logits(file, images, members)
    except EnsembleError as error:
        raise HostError(str(error)) from error
    limit = LIMIT if activations == "float32" else None
    agreement = Agreement.of(ours, expected, members, limit=limit)
    for member, distance in enumerate(agreement.deviation):
        if limit is not None and not distance <= limit:  # nan, too
            raise _fault(
                f"the logits of member {member} differ by {distance:.2g} of their length on "
                f"{len(images)} images, and those of correct source by less than {limit}"
            )
    return agreement


def exported_logits(
    sources: Mapping[str, str], metadata: EnsembleMetadata, images: np.ndarray
) -> np.ndarray:
    """The logits of all members by exported source on this machine.

    # Arguments
        sources: of `c_sources` under its default name.
        metadata: of their file.
        images: uint8 `[n, height, width, channels]`.

    # Returns
        float32 `[members, n, classes]`.

    # Raises
        HostError: if the C compiler is missing or fails, or this machine can't run what it makes.
        EnsembleError: if the program fails.
    """
    if shutil.which(_COMPILER) is None:
        raise HostError(f"There is no C compiler: {_COMPILER!r} isn't installed.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, text in sources.items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / "images").write_bytes(images.astype(np.uint8).tobytes())
        program = ["ensemble.c", str(emulation.SOURCES / "logits.c"), "-o", "program"]
        compiled = _run([_COMPILER, *_FLAGS, "-I.", *program, "-lm"], folder)
        if compiled.returncode:
            raise HostError(f"{_COMPILER} failed: {compiled.stderr.strip()}")
        ran = _run([str(folder / "program"), "images", "logits"], folder)
        if ran.returncode:
            raise _fault(f"its program fails ({ran.returncode})")
        logits = np.fromfile(folder / "logits", np.float32)
    return logits.reshape(len(images), metadata.members, metadata.classes).swapaxes(0, 1)


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            check=False,
            text=True,
            errors="replace",
            capture_output=True,
            stdin=subprocess.DEVNULL,
            cwd=folder,
        )
    except OSError as error:  # such as a compiler for another processor
        raise HostError(f"{command[0]} can't be run ({error.strerror}).") from error


def _fault(reason: str) -> EnsembleError:
    return EnsembleError(
        f"The exported C doesn't compute what the file computes: {reason}. Nothing was written. "
        "This is a fault of the exporter: please report the network's layers. The file itself may "
        "be right: `EnsembleInterpreter` runs it, and `verify` compares it with Keras."
    )
