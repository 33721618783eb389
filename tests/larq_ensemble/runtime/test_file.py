"""Metadata that don't fit the graphs of a file are refused, with the file's name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.file import metadata_of, read_ensemble, seal, with_metadata

DATA = Path(__file__).parents[2] / "data"
FILES = ("indexed", "subgraphs", "branches", "compact", "version_1")
FREE = {"class_names": None, "weights": None, "temperatures": None, "cascade": None}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "fields",
    [
        {"members": 2},
        {"members": 4},
        {"members": 1 << 40},
        {"classes": 6},
        {"classes": 1 << 40},
        {"input_shape": (8, 8, 1)},
        {"input_shape": (1 << 20, 1 << 20, 3)},
    ],
)
def test_other_sizes(tmp_path: Path, name: str, fields: dict[str, Any]) -> None:
    data = (DATA / f"{name}.tflite").read_bytes()
    path = tmp_path / "F.tflite"
    path.write_bytes(with_metadata(data, dataclasses.replace(metadata_of(data), **FREE, **fields)))
    if name in ("indexed", "compact", "version_1") and fields == {"members": 2}:
        # Fewer members of the table may be used.
        image = np.zeros((1, *metadata_of(data).input_shape), np.uint8)
        whole, fewer = map(EnsembleInterpreter, (DATA / f"{name}.tflite", path))
        expected = whole.predict_logits(image)[:2]
        np.testing.assert_array_equal(fewer.predict_logits(image), expected)
        return
    with pytest.raises(EnsembleError, match=r"F.tflite.*(its metadata describe|it looks up)"):
        read_ensemble(path)


def test_another_layout(tmp_path: Path) -> None:
    for name in FILES:
        data = (DATA / f"{name}.tflite").read_bytes()
        metadata = metadata_of(data)
        for layout in {"indexed", "subgraphs", "branches"} - {metadata.layout}:
            path = tmp_path / "F.tflite"
            path.write_bytes(with_metadata(data, dataclasses.replace(metadata, layout=layout)))
            with pytest.raises(EnsembleError, match="its metadata describe"):
                read_ensemble(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("classes", "x", r"`classes` must be"),
        ("dataset", "\ud800", "surrogates not allowed"),
        ("theory_parts", {"shared_conv": -1}, "`theory_parts` must be"),
        ("theory_parts", {"shared_conv": 10**400}, "`theory_parts` must be"),
        ("members", 10**400, "`members` must be"),
    ],
)
def test_invalid_metadata(tmp_path: Path, key: str, value: Any, message: str) -> None:
    data = (DATA / "indexed.tflite").read_bytes()
    start = data.index(b'{"scheme"')
    old = data[start : data.index(b"\0", start)]
    document = {**json.loads(old), key: value}
    document["sha256"] = document.pop("sha256")
    content = json.dumps(document, separators=(",", ":")).encode()
    data = data[: start - 4] + len(content).to_bytes(4, "little") + content
    path = tmp_path / "F.tflite"
    path.write_bytes(seal(data + bytes(-len(data) % 16)))
    with pytest.raises(EnsembleError, match=rf"F.tflite'.*{message}"):
        read_ensemble(path)
