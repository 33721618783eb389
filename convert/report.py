"""What writing a converted file has come to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion wrote.

    # Arguments
        tflite: path of the file.
        bytes: its size.
        theory_bytes: the least bytes that hold the ensemble's values.
        layout: how members lie in the file.
        seconds: duration, from the Keras model in memory to the file.
    """

    tflite: str
    bytes: int
    theory_bytes: int
    layout: str
    seconds: float

    @property
    def ratio(self) -> float:
        """`bytes / theory_bytes`."""
        return self.bytes / self.theory_bytes

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}
