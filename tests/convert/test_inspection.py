"""The inspection accounts for every byte, and takes damaged files calmly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from convert.inspection import CATEGORIES, inspect_file
from larq_ensemble.errors import EnsembleError

from .conftest import Converted, small_backbone


def test_categories_sum_to_the_file(fusion: Converted) -> None:
    inspection = inspect_file(fusion.path)
    assert tuple(inspection.categories) == CATEGORIES
    assert sum(inspection.categories.values()) == fusion.path.stat().st_size == inspection.bytes
    assert min(inspection.categories.values()) > 0


def test_categories_by_hand(fusion: Converted) -> None:
    sizes = inspect_file(fusion.path).categories
    # Input channels, here 8 or 16, are packed 32 to a word of 4 bytes.
    assert sizes["binary_filters"] == 4 * 9 * (8 + 8 + 16 + 16)
    assert sizes["heads"] == 3 * 4 * 16 * 7
    # Stem norm; three norms a block, the first of the second stage 8 wide; shortcut norm.
    norms = 8 + 3 * 8 + (8 + 16 + 16) + 16
    assert sizes["member_tables"] == 3 * 4 * (2 * norms + 6 + 7)
    # The two zero biases (8 and 16 channels) are convolutions' or scales'.
    weights = 4 * (27 * 8 + 8 * 16 + 2 * (8 + 16) + 8 + 16)
    assert sizes["convolutions"] + sizes["filter_scales"] == weights


def test_what_the_file_says(fusion: Converted) -> None:
    inspection = inspect_file(fusion.path)
    assert inspection.metadata is not None
    assert inspection.metadata["members"] == 3
    assert inspection.metadata["class_names"][6] == "class 6"
    assert inspection.theory_bytes == fusion.report.theory_bytes
    assert inspection.ops["LceBconv2d"] == 4
    assert inspection.binary_filter_copies == 1
    assert [item.shape for item in inspection.binary_filters].count((16, 3, 3, 1)) == 2
    values = json.loads(json.dumps(inspection.to_dict()))
    assert {
        "bytes", "theory_bytes", "categories", "ops", "binary_filter_copies", "metadata",
    } <= values.keys()  # fmt: skip


def test_a_model_of_other_origin(tmp_path: Path) -> None:
    import larq_compute_engine as lce

    path = tmp_path / "straight.tflite"
    path.write_bytes(lce.convert_keras_model(small_backbone()))
    inspection = inspect_file(path)
    assert inspection.metadata is None
    assert inspection.theory_bytes is None
    assert sum(inspection.categories.values()) == inspection.bytes
    assert inspection.categories["member_tables"] == 0


def test_copies_are_counted(tmp_path: Path) -> None:
    """Two layers with equal filters are one filter that stands twice in a straight conversion."""
    import larq_compute_engine as lce

    backbone = small_backbone()
    first, second = (backbone.get_layer(f"layer1_0_conv{i}") for i in (1, 2))
    second.set_weights(first.get_weights())
    path = tmp_path / "twice.tflite"
    path.write_bytes(lce.convert_keras_model(backbone))
    filters = inspect_file(path).binary_filters
    # The converter may itself share the constant; then there is one copy of three filters.
    assert len(filters) == 3
    assert sum(item.copies for item in filters) in (3, 4)


@pytest.mark.parametrize("kept", [0, 3, 8, 100, 0.5, 0.9])
def test_truncated_files(fusion: Converted, tmp_path: Path, kept: float) -> None:
    data = fusion.path.read_bytes()
    path = tmp_path / "short.tflite"
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    with pytest.raises(EnsembleError, match=r"short\.tflite|The model is damaged"):
        inspect_file(path)


def test_needs_no_tensorflow(fusion: Converted) -> None:
    program = (
        "import sys; from convert.inspection import inspect_file\n"
        f"print(inspect_file({str(fusion.path)!r}).bytes)\n"
        "assert not {'tensorflow', 'tf_keras', 'keras'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == fusion.path.stat().st_size
