"""Writing a converted file, and how large it is."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from larq_ensemble.files import write_bytes
from larq_ensemble.runtime.metadata import EnsembleMetadata

if TYPE_CHECKING:
    from larq_ensemble.convert.comparison import Agreement
    from larq_ensemble.convert.quantization import QuantizationLoss


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion wrote.

    # Arguments
        tflite: path of the file.
        bytes: its size.
        lower_bound_bytes: the least bytes that hold the ensemble's values: no graph, names or
            padding.
        layout: the layout of the file.
        seconds: duration, from the Keras model in memory, or a file, to the file.
        agreement: how the file's bytes compare on a few images with what was converted, Keras
            (`larq_ensemble.convert.agreement`) or a file; `None` if members were only cut off.
        target: which runtimes the file is for.
        filters: how it stores binary filters; `None` if it is for LCE.
        quantization: of a real-valued network in integers, what these cost in accuracy.
    """

    tflite: str
    bytes: int
    lower_bound_bytes: int
    layout: str
    seconds: float
    agreement: Agreement | None = None
    target: str = "lce"
    filters: str | None = None
    quantization: QuantizationLoss | None = None

    @property
    def ratio(self) -> float:
        """`bytes / lower_bound_bytes`."""
        return self.bytes / self.lower_bound_bytes

    def to_dict(self) -> dict[str, Any]:
        """As `convert --json` gives it."""
        values = asdict(self)
        if self.quantization is None:
            del values["quantization"]
        return {**values, "theory_bytes": values.pop("lower_bound_bytes"), "ratio": self.ratio}


def write_file(
    data: bytes,
    metadata: EnsembleMetadata,
    path: str | os.PathLike[str],
    start: float,
    agreement: Agreement | None = None,
    quantization: QuantizationLoss | None = None,
) -> ConversionReport:
    """Writes an ensemble's file; an existing file is replaced only on success.

    # Arguments
        data: the bytes.
        metadata: the ensemble's metadata in `data`.
        path: where to write.
        start: `time.perf_counter()` when the conversion began.
        agreement, quantization: for the report.
    """
    write_bytes(path, data)
    return ConversionReport(
        tflite=str(path),
        bytes=len(data),
        lower_bound_bytes=metadata.theory_bytes,
        layout=metadata.layout,
        seconds=time.perf_counter() - start,
        agreement=agreement,
        target=metadata.target,
        filters=metadata.filters,
        quantization=quantization,
    )
