"""The wheel that is installed on ARM, on both kernels, against what LCE gave on x86."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import larq_ensemble
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.backends import KERNELS

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
FILES = ("indexed", "subgraphs", "branches", "compact", "version_1")


def test_the_wheel_is_what_is_tested() -> None:
    folder = Path(larq_ensemble.__file__).parent
    assert folder != ROOT / "larq_ensemble"
    assert (folder / "runtime" / "liblarq_ensemble_delegate.so").is_file()


@pytest.mark.parametrize("kernel", KERNELS["litert"])
@pytest.mark.parametrize("name", FILES)
def test_values_are_those_of_lce_on_x86(name: str, kernel: str) -> None:
    answers = np.load(DATA / f"{name}.npz")
    ensemble = EnsembleInterpreter(DATA / f"{name}.tflite", kernel=kernel)
    logits = ensemble.predict_logits(answers["images"])
    np.testing.assert_allclose(logits, answers["logits"], rtol=1e-4, atol=1e-4)
    probabilities = ensemble.predict(answers["images"])
    np.testing.assert_allclose(probabilities, answers["probabilities"], rtol=1e-4, atol=1e-5)


def test_the_cascade_stops_where_it_does_on_x86() -> None:
    answers = np.load(DATA / "compact.npz")
    prediction = EnsembleInterpreter(DATA / "compact.tflite").predict_adaptive(answers["images"])
    assert prediction.members.tolist() == answers["adaptive_members"].tolist()
    assert len({*prediction.members}) > 1  # else nothing is shown


def test_the_command_line_predicts(tmp_path: Path) -> None:
    answers = np.load(DATA / "indexed.npz")
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, image in zip(paths, answers["images"]):
        Image.fromarray(image).save(path)
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "larq_ensemble"),
            *("predict", DATA / "indexed.tflite", *paths, "--json", "-"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    predictions = json.loads(done.stdout)["predictions"]
    expected = answers["probabilities"][:3].argmax(-1).tolist()
    assert [prediction["class"] for prediction in predictions] == expected
