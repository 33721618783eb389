"""A file cut to its first members runs them as before, and nothing of the others is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from larq_ensemble.convert.cutting import cut_file
from larq_ensemble.convert.inspection import inspect_file
from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.metadata import LAYOUTS

from .conftest import Converted, SmallCase, converted, pixels


@pytest.mark.parametrize(
    "options",
    [{"layout": layout} for layout in LAYOUTS] + [{"heads": "int8", "precision": "compact"}],
    ids=str,
)
def test_first_members_compute_the_same_bits(
    options: dict[str, str], small_case: SmallCase, tmp_path: Path
) -> None:
    case = small_case(**options)
    images = pixels(4, (16, 16, 3))
    expected = EnsembleInterpreter(case.path).predict_logits(images)
    size = case.path.stat().st_size
    for members in (3, 2, 1):
        path = tmp_path / f"{members}.tflite"
        report = cut_file(case.path, path, members)
        ours = EnsembleInterpreter(path)
        assert ours.max_members == members
        assert ours.predict_logits(images).tobytes() == expected[:members].tobytes()
        assert report.bytes == path.stat().st_size <= size
        assert report.lower_bound_bytes == inspect_file(path).lower_bound_bytes
        size = report.bytes


def test_the_same_as_a_conversion_of_fewer(fusion: Converted, tmp_path: Path) -> None:
    cut_file(fusion.path, tmp_path / "cut.tflite", 2)
    case = converted(
        fusion.model, tmp_path, members=2, class_names=[f"class {i}" for i in range(7)],
        dataset="test",
    )  # fmt: skip
    assert case.path.read_bytes() == (tmp_path / "cut.tflite").read_bytes()
    sizes, whole = (inspect_file(path).categories for path in (case.path, fusion.path))
    for name in ("heads", "batch_norm", "activations"):
        assert sizes[name] * 3 == whole[name] * 2
    for name in ("binary_filters", "stem", "shortcuts", "filter_scales"):
        assert sizes[name] == whole[name]


@pytest.mark.parametrize("members", [0, 4])
def test_member_counts_out_of_range(fusion: Converted, tmp_path: Path, members: int) -> None:
    with pytest.raises(EnsembleError, match=r"`members` must be a whole number from 1 to 3"):
        cut_file(fusion.path, tmp_path / "cut.tflite", members)
    assert not list(tmp_path.iterdir())


def test_the_output_is_checked_before_the_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnsembleError, match=r"`path` '.*' can't be written \(.* is no folder"):
        cut_file(tmp_path / "missing.tflite", tmp_path / "file" / "cut.tflite", 1)


def test_needs_no_tensorflow(fusion: Converted, tmp_path: Path) -> None:
    program = (
        "import sys; from larq_ensemble.cli import main\n"
        f"sys.argv[1:] = ['convert', {str(fusion.path)!r}, '--members', '1',"
        f" '--out', {str(tmp_path / 'one.tflite')!r}]\n"
        "try:\n    main()\nexcept SystemExit as stopped:\n    assert not stopped.code\n"
        "assert not {'tensorflow', 'tf_keras', 'keras'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert inspect_file(tmp_path / "one.tflite").metadata["members"] == 1
