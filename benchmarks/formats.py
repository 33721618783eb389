"""The number formats that the benchmarks compare, as options of `convert_ensemble`."""

from __future__ import annotations

from typing import Any

FORMATS: dict[str, dict[str, Any]] = {
    "float32": {},
    "int8 heads": {"heads": "int8"},
    "int8 heads, compact": {"heads": "int8", "precision": "compact"},
}
