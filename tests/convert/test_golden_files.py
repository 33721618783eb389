"""Files of earlier versions are read, run, inspected and cut (`tests/data/make.py` wrote them)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.convert import cut_file, inspect_file
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.ir.verifier import verify
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.calibration import calibrate
from larq_ensemble.runtime.file import read_ensemble

FOLDER = Path(__file__).parents[1] / "data"
FILES = pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.npz")))
#: What other processors may round otherwise; a wrong member is off by far more.
CLOSE = {"rtol": 1e-3, "atol": 1e-3}


def answers(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as saved:
        return dict(saved)


def test_there_are_files_of_each_form() -> None:
    metadata = [read_ensemble(path).metadata for path in FOLDER.glob("*.tflite")]
    assert {item.layout for item in metadata} == {"indexed", "subgraphs", "branches"}
    assert {item.version for item in metadata} == {1, 2}
    assert {(item.heads, item.precision) for item in metadata} == {
        ("float32", "float32"), ("int8", "compact")
    }  # fmt: skip
    assert any(item.cascade is not None for item in metadata)
    assert any(item.class_names is not None for item in metadata)


@FILES
@pytest.mark.parametrize("kernel", ["default", "indirect"])
def test_they_give_the_logits_that_they_gave(name: str, kernel: str) -> None:
    expected = answers(name)
    interpreter = EnsembleInterpreter(FOLDER / f"{name}.tflite", kernel=kernel)
    logits = interpreter.predict_logits(expected["images"])
    np.testing.assert_allclose(logits, expected["logits"], **CLOSE)
    # Members differ: another one's logits would be noticed.
    assert np.abs(np.diff(expected["logits"], axis=0)).max(axis=(1, 2)).min() > 0.1
    probabilities = interpreter.predict(expected["images"])
    np.testing.assert_allclose(probabilities, expected["probabilities"], **CLOSE)


def test_their_cascade_stops_where_it_stopped() -> None:
    expected = answers("compact")
    interpreter = EnsembleInterpreter(FOLDER / "compact.tflite")
    members = interpreter.predict_adaptive(expected["images"]).members
    np.testing.assert_array_equal(members, expected["adaptive_members"])
    assert len(np.unique(members)) > 1


@FILES
def test_every_byte_is_accounted_for(name: str) -> None:
    path = FOLDER / f"{name}.tflite"
    inspection = inspect_file(path)
    assert sum(inspection.categories.values()) == inspection.bytes == path.stat().st_size
    assert inspection.binary_filter_copies == 1
    assert inspection.lower_bound is not None
    assert inspection.categories["other"] < 500
    has_trunk = name in ("indexed", "subgraphs", "compact", "stock")
    assert bool(inspection.trunk_ops) == has_trunk
    verify(read(path.read_bytes()), no_dead_code=True)


@FILES
def test_they_can_be_cut(name: str, tmp_path: Path) -> None:
    path, cut = FOLDER / f"{name}.tflite", tmp_path / "cut.tflite"
    images = answers(name)["images"]
    expected = EnsembleInterpreter(path, kernel="default").predict_logits(images)
    for members in (2, 1):
        cut_file(path, cut, members)
        ours = EnsembleInterpreter(cut, kernel="default").predict_logits(images)
        assert ours.tobytes() == expected[:members].tobytes()
        verify(read(cut.read_bytes()), no_dead_code=True)


def test_they_can_be_calibrated(tmp_path: Path) -> None:
    path = Path(shutil.copy(FOLDER / "version_1.tflite", tmp_path))
    images = answers("version_1")["images"]
    calibrate(path, images, np.arange(len(images)) % 5, mean_members=2)
    assert read_ensemble(path).metadata.cascade is not None
    members = EnsembleInterpreter(path).predict_adaptive(images).members
    assert 1 < members.mean() <= 2
