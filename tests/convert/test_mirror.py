"""Files of ensembles whose members of odd numbers see the image mirrored, against Keras."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.convert.cutting import cut_file
from larq_ensemble.convert.targets.c.planning import plan_ensemble
from larq_ensemble.keras import keras
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.file import read_ensemble

from .conftest import Converted, assert_members_agree, converted, pixels, small_ensemble
from .targets.c.programs import Program

IMAGES = pixels(20, (16, 16, 3))


@pytest.fixture(scope="module")
def mirroring() -> keras.Model:
    return small_ensemble(3, mirror=True)


@pytest.fixture(scope="module")
def indexed(mirroring: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return converted(mirroring, tmp_path_factory.mktemp("indexed"), layout="indexed")


@pytest.mark.parametrize(
    ("layout", "target"), [("subgraphs", "lce"), ("branches", "lce"), ("indexed", "litert")]
)
def test_members_agree_with_keras(mirroring, tmp_path, layout: str, target: str) -> None:
    case = converted(mirroring, tmp_path, layout=layout, target=target)
    assert_members_agree(case, IMAGES)


def test_the_columns_are_a_table_and_stay_exact(mirroring, indexed, tmp_path) -> None:
    """32 columns of 4 bytes for each member, also where their other values get few bits."""
    assert_members_agree(indexed, IMAGES)
    compact = converted(mirroring, tmp_path, layout="indexed", precision="compact")
    one, other, _ = EnsembleInterpreter(compact.path).predict_logits(IMAGES)
    assert np.abs(one - other).max() > 0.1
    for case in (indexed, compact):
        tensors = read_ensemble(case.path).data
        assert tensors.count(np.arange(16, dtype=np.int32)[::-1].tobytes()) == 1


def test_the_first_members_of_a_file(indexed, tmp_path) -> None:
    cut_file(indexed.path, tmp_path / "cut.tflite", 2)
    whole = EnsembleInterpreter(indexed.path).predict_logits(IMAGES)
    cut = EnsembleInterpreter(tmp_path / "cut.tflite").predict_logits(IMAGES)
    np.testing.assert_array_equal(cut, whole[:2])


def test_c_source(indexed, tmp_path) -> None:
    file = read_ensemble(indexed.path)
    expected = EnsembleInterpreter(indexed.path).predict_logits(IMAGES[:3])
    program = Program(tmp_path, plan_ensemble(file), file.metadata)
    for number, image in enumerate(IMAGES[:3]):
        for member in (2, 1, 0):
            logits = program.logits(image, member)
            np.testing.assert_allclose(logits, expected[member, number], rtol=1e-3, atol=1e-3)
