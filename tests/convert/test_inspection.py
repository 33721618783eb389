"""The inspection accounts for every byte, and takes damaged files calmly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.convert.categories import Category
from larq_ensemble.convert.inspection import inspect_file
from larq_ensemble.convert.passes import constant_deduplication
from larq_ensemble.convert.targets.lce import write
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras

from ..builder import Builder
from .conftest import Converted, small_backbone


def test_categories_sum_to_the_file(fusion: Converted) -> None:
    inspection = inspect_file(fusion.path)
    assert tuple(inspection.categories) == tuple(category.value for category in Category)
    assert sum(inspection.categories.values()) == fusion.path.stat().st_size == inspection.bytes
    empty = [name for name, size in inspection.categories.items() if not size]
    assert empty == ["borders", "unpacking", "unpacked_filters", "convolutions"]


def values_of_norms(model: keras.Model) -> int:
    """A scale and an offset per channel; a threshold alone before a sign that no scale turns."""
    norms = [
        layer for layer in model.layers if layer.name.startswith("member_0_") and "bn" in layer.name
    ]
    count = 0
    for norm in norms:
        suffix = norm.name.removeprefix("member_0_")
        scales = [model.get_layer(f"member_{m}_{suffix}").gamma.numpy() for m in range(3)]
        before_sign = suffix.endswith(("bn1", "bn2"))
        count += scales[0].size * (1 if before_sign and np.min(scales) > 0 else 2)
    return count


def test_categories_by_hand(fusion: Converted) -> None:
    sizes = inspect_file(fusion.path).categories
    # Input channels, here 8 or 16, are packed 32 to a word of 4 bytes, the rest is padding.
    assert sizes["binary_filters"] == 9 * (8 * 8 + 8 * 8 + 8 * 16 + 16 * 16) // 8
    assert sizes["binary_filters"] + sizes["filter_padding"] == 4 * 9 * (8 + 8 + 16 + 16)
    assert sizes["heads"] == 3 * 4 * (16 * 7 + 7)
    assert sizes["batch_norm"] == 3 * 4 * values_of_norms(fusion.model)
    # Where PReLU, batch norm and sign are one comparison no slope is stored.
    in_thresholds = inspect_file(fusion.path).metadata["rewrites"]["threshold_prelus"]
    assert sizes["activations"] == 3 * 4 * (6 - in_thresholds)
    assert sizes["stem"] == 4 * 27 * 8
    # All convolutions have the two zero biases (8 and 16 channels) in common; that of 16 counts
    # for the shortcut, which comes first.
    assert sizes["shortcuts"] == 4 * 8 * 16 + 4 * 16
    assert sizes["filter_scales"] == 4 * 2 * (8 + 16) + 4 * 8


def test_lower_bound_by_category(fusion: Converted) -> None:
    """What is stored is what the lower bound counts, but for padding and the converter's zeros."""
    inspection = inspect_file(fusion.path)
    assert sum(inspection.lower_bound.values()) == inspection.lower_bound_bytes
    zeros = {"filter_scales": 4 * 8, "shortcuts": 4 * 16}
    bound = dict(inspection.lower_bound)
    # Stem norm; three norms a block, the first of the second stage 8 wide; shortcut norm.
    assert bound.pop("batch_norm") == 3 * 4 * 2 * (8 + 3 * 8 + (8 + 16 + 16) + 16)
    # Slopes within thresholds are not stored.
    assert bound.pop("activations") == 3 * 4 * 6
    for name, size in bound.items():
        assert inspection.categories[name] == size + zeros.get(name, 0), name


def test_what_the_file_says(fusion: Converted) -> None:
    inspection = inspect_file(fusion.path)
    assert inspection.metadata is not None
    assert inspection.metadata["members"] == 3
    assert inspection.metadata["class_names"][6] == "class 6"
    assert inspection.lower_bound_bytes == fusion.report.lower_bound_bytes
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
    assert inspection.lower_bound_bytes is None
    assert sum(inspection.categories.values()) == inspection.bytes
    assert inspection.lower_bound is None
    assert inspection.categories["other"] < 100
    assert inspection.categories["binary_filters"] == 9 * (8 * 8 + 8 * 8 + 8 * 16 + 16 * 16) // 8
    assert inspection.categories["heads"] == 4 * 16 * 7


def test_copies_are_counted(tmp_path: Path) -> None:
    """Two binary convolutions with equal filters, before and after these share a buffer."""
    build, path = Builder(), tmp_path / "twice.tflite"
    x = build.input("image", 1, 4, 4, 32)
    for _ in range(2):
        filters = build.constant(np.arange(32 * 9).reshape(32, 3, 3, 1), "int32")
        bits = build.op("LceQuantize", x, shape=(1, 4, 4, 1), dtype="int32", custom=b"")
        multiplier, bias = build.constant(np.ones(32)), build.constant(np.zeros(32))
        x = build.binary_convolution(bits, filters, multiplier, bias, channels_in=32)
    module = build.module(logits=x)
    path.write_bytes(write(module))
    before = inspect_file(path)
    constant_deduplication.run(module)
    path.write_bytes(write(module))
    after = inspect_file(path)
    assert (before.binary_filter_copies, after.binary_filter_copies) == (2, 1)
    assert before.binary_filters[0].bytes == after.binary_filters[0].bytes == 4 * 32 * 9
    sizes = [inspection.categories["binary_filters"] for inspection in (before, after)]
    assert sizes == [2 * 4 * 32 * 9, 4 * 32 * 9]


@pytest.mark.parametrize("kept", [0, 3, 8, 100, 0.5, 0.9])
def test_truncated_files(fusion: Converted, tmp_path: Path, kept: float) -> None:
    data = fusion.path.read_bytes()
    path = tmp_path / "short.tflite"
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    with pytest.raises(EnsembleError, match=r"short\.tflite"):
        inspect_file(path)


def test_needs_no_tensorflow(fusion: Converted) -> None:
    program = (
        "import sys; from larq_ensemble.convert.inspection import inspect_file\n"
        f"print(inspect_file({str(fusion.path)!r}).bytes)\n"
        "assert not {'tensorflow', 'tf_keras', 'keras'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == fusion.path.stat().st_size
