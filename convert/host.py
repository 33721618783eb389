"""Exported C on this machine, and whether it computes what its file computes.

A wrong plan gives wrong logits and no error. So `export` compiles what it is about to write, runs
it on a few images, and compares the logits with those of the runtime. The measure is the deviation
that `larq_ensemble.convert.comparison` defines.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from larq_ensemble.convert import emulation
from larq_ensemble.convert.comparison import Agreement, member_logits, some_images
from larq_ensemble.convert.programs import ProgramError, run_program
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.file import EnsembleFile
from larq_ensemble.runtime.metadata import EnsembleMetadata

#: The largest deviation of correct source, by the number format of maps. Measured over the networks
#: of the package, `tests/data`, and untrained ones: at most 1.2e-6 with float32, and with float16,
#: where rounding flips many signs, 0.2. Unrelated logits deviate by 1.4.
LIMITS = {"float32": 0.01, "float16": 0.8}
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
        activations: the number format of their maps, a key of `LIMITS`.

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
    agreement = Agreement.of(ours, expected, members, limit=LIMITS[activations])
    for member, distance in enumerate(agreement.deviation):
        if not distance <= agreement.limit:  # nan, too
            raise _fault(
                f"the logits of member {member} differ by {distance:.2g} of their length on "
                f"{len(images)} images, and those of correct source by less than {agreement.limit}"
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
        try:
            run_program([_COMPILER, *_FLAGS, "-I.", *program, "-lm"], folder=folder)
        except ProgramError as error:
            raise HostError(str(error)) from error
        try:
            run_program([folder / "program", "images", "logits"], folder=folder)
        except ProgramError as error:
            if error.status is None:  # such as a compiler for another processor
                raise HostError(str(error)) from error
            raise _fault(f"its program fails ({error.status})") from error
        logits = np.fromfile(folder / "logits", np.float32)
    return logits.reshape(len(images), metadata.members, metadata.classes).swapaxes(0, 1)


def _fault(reason: str) -> EnsembleError:
    return EnsembleError(
        f"The exported C doesn't compute what the file computes: {reason}. Nothing was written. "
        "This is a fault of the exporter: please report the network's layers. The file itself may "
        "be right: `EnsembleInterpreter` runs it, and `verify` compares it with Keras."
    )
