"""The number formats that the benchmarks compare, as options of `convert_ensemble`."""

FORMATS = {
    "float32": {},
    "int8 heads": {"heads": "int8"},
    "int8 heads, compact": {"heads": "int8", "precision": "compact"},
}
