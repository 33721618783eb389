"""Real-valued networks in integers: what the file computes and holds, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from larq_ensemble.cli import main
from larq_ensemble.convert.inspection import inspect_file
from larq_ensemble.convert.quantization import quantize_run
from larq_ensemble.convert.report import ConversionReport
from larq_ensemble.data.datasets import DATASETS
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras
from larq_ensemble.runs import Run
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.tflite.reader import read_model

from .conftest import randomized, saved_run, small_backbone

DIGITS = DATASETS["digits"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two convolutions, one with the batch norm that TFLite folds."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="first")(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="norm")(x))
    x = keras.layers.Conv2D(8, 3, padding="same", strides=2, name="second")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    model = keras.Model(inputs, keras.layers.Dense(10, name="logits")(x))
    return saved_run(
        tmp_path_factory.mktemp("quantized") / "run",
        randomized(model),
        recipe={"epochs": 1},
        data={"validation": 0.1, "limit_train": None},
    )


@pytest.fixture(scope="module")
def reports(run: Run) -> dict[str, ConversionReport]:
    """The conversions to files beside the run."""
    return {
        weights: quantize_run(run, run.path.parent / f"{weights}.tflite", weights=weights)
        for weights in ("int8", "int4")
    }


def test_integers(run: Run, reports: dict[str, ConversionReport]) -> None:
    test = DIGITS.read(None)[1]
    expected = run.model(DIGITS.normalization(test.images), training=False).numpy()
    folded = run.model.get_layer("norm")
    factor = (folded.gamma / np.sqrt(folded.moving_variance + folded.epsilon)).numpy()
    second = run.model.get_layer("second").kernel.numpy().transpose(3, 0, 1, 2)
    for weights, report in reports.items():
        ensemble = EnsembleInterpreter(report.tflite, backend="litert")
        assert (ensemble.max_members, ensemble.metadata.quantization) == (1, weights)
        (ours,) = ensemble.predict_logits(test.images)
        distance = np.linalg.norm(ours - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert np.median(distance) < {"int8": 0.05, "int4": 0.2}[weights]
        loss = report.quantization
        assert loss is not None
        assert (loss.representative_images, loss.split, loss.compared_images) == (
            512, "validation", 120,
        )  # fmt: skip
        (graph,) = read_model(Path(report.tflite).read_bytes()).graphs
        convolutions = [op for op in graph.operators if op.name == "CONV_2D"]
        first, last = (op.operands[1] for op in convolutions)
        # TFLite's specification: the largest weight of a filter, with batch norm folded, is 127.
        kernel = run.model.get_layer("first").kernel.numpy().transpose(3, 0, 1, 2)
        largest = np.abs(kernel).max(axis=(1, 2, 3)) * np.abs(factor)
        np.testing.assert_allclose(first.quantization.scale, largest / 127, rtol=1e-5)
        assert (first.dtype, last.dtype) == ("int8", weights)
        step = last.quantization.scale[:, np.newaxis, np.newaxis, np.newaxis]
        error = np.abs(last.values * step - second)
        clipped = np.abs(last.values) >= (127 if weights == "int8" else 7)
        assert (error <= 0.54 * step)[~clipped].all()
    smaller = reports["int8"].bytes - reports["int4"].bytes
    assert smaller == pytest.approx(second.size / 2, abs=64)
    found = inspect_file(reports["int8"].tflite)
    # Filters and biases; scales beside them; the table of a normalization.
    assert found.categories["convolutions"] == 8 * 9 * 8 + 8 * 4
    assert found.categories["stem"] == 8 * 9 + 8 * 4
    assert found.categories["filter_scales"] == 4 * (8 + 8 + 10)
    assert found.lower_bound_bytes == reports["int8"].lower_bound_bytes < reports["int8"].bytes


def test_command(
    run: Run,
    reports: dict[str, ConversionReport],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def quantized(trained: Run, out: str, **options: Any) -> ConversionReport:
        assert (trained.path, out) == (run.path, str(tmp_path / "out.tflite"))
        assert options == {"weights": "int4", "dataset": "digits", "data_dir": None}
        return reports["int4"]

    monkeypatch.setattr("larq_ensemble.convert.quantization.quantize_run", quantized)
    options = f"--quantize int4 --dataset digits --json {tmp_path / 'result.json'}"
    with pytest.raises(SystemExit) as end:
        main(f"convert {run.path} --out {tmp_path / 'out.tflite'} {options}".split())
    assert not end.value.code
    loss = json.loads((tmp_path / "result.json").read_text())["quantization"]
    assert (loss["weights"], loss["compared_images"]) == ("int4", 120)
    assert (
        f"On 120 validation images top-1 is {loss['float_top1']:.2f} % in Keras and "
        f"{loss['top1']:.2f} % in the file; {100 * loss['argmax_agreement']:.1f} % get the same"
    ) in capsys.readouterr().out


def test_what_is_refused(run: Run, tmp_path: Path) -> None:
    binary = small_backbone(size=8, channels=1, classes=10, widths=(4,))
    with pytest.raises(EnsembleError, match=r"`quantize` is for real-valued.*2 layers.*twin"):
        quantize_run(saved_run(tmp_path / "binary", binary), tmp_path / "no.tflite")
    with pytest.raises(EnsembleError, match=r"'int2'.*int4, int8"):
        quantize_run(run, tmp_path / "no.tflite", weights="int2")
    assert not (tmp_path / "no.tflite").exists()
