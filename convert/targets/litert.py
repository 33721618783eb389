"""A file of Larq Compute Engine's operators as one that any TFLite runtime runs.

LCE's operators become builtin ones of the same values (`larq_ensemble.legalization`). Layout,
signatures and metadata stay, and LCE runs the file, too.
"""

from __future__ import annotations

from larq_ensemble.convert.pipeline import run_legalization
from larq_ensemble.convert.targets.lce import write_ensemble
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.runtime.metadata import EnsembleMetadata


def legalized_ensemble(data: bytes, metadata: EnsembleMetadata) -> bytes:
    """The bytes of a file for `"litert"`, with a checksum.

    # Arguments
        data: a whole file for `"lce"`.
        metadata: the metadata that it gets; `filters` says how filters are stored.

    # Raises
        EnsembleError: for an operator that no builtin ones stand for.
    """
    assert metadata.filters is not None  # metadata of this target have it
    module = read(data)
    module.members, module.layout = metadata.members, metadata.layout
    run_legalization(module, metadata.filters)
    return write_ensemble(module, metadata)
