"""The runtime on a small converted ensemble: results, budgets and bad inputs."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.progress import listening
from larq_ensemble.runtime import EnsembleInterpreter, calibrate
from larq_ensemble.runtime.backends import lce
from larq_ensemble.runtime.combination import combine
from larq_ensemble.runtime.file import read_ensemble

ROOT = Path(__file__).parents[3]
SHAPE = (12, 10, 3)
CLASSES = 4
MEMBERS = 3
WEIGHTS = (1.5, 0.25, 4.0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of an ensemble whose members differ by their random linear layers."""
    file = tmp_path_factory.mktemp("runtime") / "ensemble.tflite"
    return Path(shutil.copy(ROOT / "tests" / "data" / "weighted.tflite", file))


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (6, *SHAPE), np.uint8)


def test_properties_come_from_the_metadata(path: Path) -> None:
    ensemble = EnsembleInterpreter(path)
    assert ensemble.input_shape == SHAPE
    assert ensemble.max_members == ensemble.members == MEMBERS
    assert ensemble.class_names == ("ant", "bee", "cat", "dog")
    assert ensemble.classes == CLASSES
    assert (ensemble.scheme, ensemble.weights) == ("adaboost", WEIGHTS)


def test_predictions_are_the_combined_logits(path: Path, images: np.ndarray) -> None:
    ensemble = EnsembleInterpreter(str(path), members=2)
    logits = ensemble.predict_logits(images)
    assert logits.shape == (2, 6, CLASSES)
    probabilities = ensemble.predict(images)
    assert probabilities.shape == (6, CLASSES)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(probabilities, combine(logits, "adaboost", WEIGHTS))


def test_each_image_is_told(path: Path, images: np.ndarray) -> None:
    told: list[tuple[str, int, int]] = []
    with listening(lambda work: told.append((work.unit, work.done, work.total))):
        EnsembleInterpreter(path, members=2).predict(images)
    assert told == [*(("image", done, 6) for done in range(7)), ("image", 6, 6)]


def test_members_can_be_set_between_calls(path: Path, images: np.ndarray) -> None:
    ensemble = EnsembleInterpreter(path)
    logits = ensemble.predict_logits(images)
    assert len({member.tobytes() for member in logits}) == MEMBERS
    for members in (1, 3, 2, np.int64(1)):
        ensemble.members = members
        assert ensemble.members == members
        # The first m members count with the first m weights.
        expected = combine(logits[:members], "adaboost", WEIGHTS[:members])
        np.testing.assert_array_equal(ensemble.predict(images), expected)
        np.testing.assert_array_equal(ensemble.predict_logits(images), logits[:members])
    # For one call only.
    assert ensemble.predict_logits(images, members=3).shape[0] == 3
    assert ensemble.members == 1


def test_types_and_shapes_of_images(path: Path, images: np.ndarray) -> None:
    ensemble = EnsembleInterpreter(path, threads=2)
    expected = ensemble.predict(images)
    for kind in (np.int64, np.float32, np.float64, np.uint16):
        np.testing.assert_array_equal(ensemble.predict(images.astype(kind)), expected)
    np.testing.assert_array_equal(ensemble.predict(images[::2]), expected[::2])
    np.testing.assert_array_equal(ensemble.predict(images[0]), expected[:1])
    np.testing.assert_array_equal(ensemble.predict(images.tolist()), expected)
    assert ensemble.predict(images[:0]).shape == (0, CLASSES)


@pytest.mark.parametrize("members", [0, MEMBERS + 1, -1, 1.5, "2", True, None])
def test_bad_members_are_refused(path: Path, images: np.ndarray, members: object) -> None:
    ensemble = EnsembleInterpreter(path, members=2)
    with pytest.raises(EnsembleError, match=r"`members`.* 1 to 3, got "):
        ensemble.members = members
    assert ensemble.members == 2
    if members is not None:
        with pytest.raises(EnsembleError, match=r"`members`.*, got "):
            EnsembleInterpreter(path, members=members)
        with pytest.raises(EnsembleError, match=r"`members`.*, got "):
            ensemble.predict_logits(images, members=members)


@pytest.mark.parametrize("threads", [0, -1, 1.0, None, True, float("inf"), "2", np.float64(2)])
def test_bad_threads_are_refused(path: Path, threads: object) -> None:
    with pytest.raises(EnsembleError, match=r"`threads`.*, got "):
        EnsembleInterpreter(path, threads=threads)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 10, 12, 3), np.uint8), r"\[n, 12, 10, 3\]. Received: \[2, 10, 12, 3\]"),
        (np.zeros((12, 10), np.uint8), "Received"),
        (np.zeros((1, 1, *SHAPE), np.uint8), "Received"),
        (np.zeros((1, *SHAPE), bool), "Received: bool"),
        (np.full((1, *SHAPE), "a"), "Received: <U1"),
        (np.full((1, *SHAPE), 256), "from 0 to 255.*Received: values from 256 to 256"),
        (np.full((1, *SHAPE), -0.5), "Received: values from -0.5"),
        (np.full((1, *SHAPE), np.nan), "Received: values from nan"),
    ],
)
def test_bad_images_are_refused(path: Path, images: np.ndarray, message: str) -> None:
    with pytest.raises(EnsembleError, match=message):
        EnsembleInterpreter(path).predict(images)


def test_normalized_images_raise_a_warning(path: Path) -> None:
    ensemble = EnsembleInterpreter(path)
    with pytest.warns(UserWarning, match="raw pixels"):
        ensemble.predict(np.full((1, *SHAPE), 0.5, np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ensemble.predict(np.zeros((1, *SHAPE), np.float32))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnsembleError, match=r"none\.tflite.*No such file"):
        EnsembleInterpreter(tmp_path / "none.tflite")
    with pytest.raises(EnsembleError, match="Can't read the model"):
        EnsembleInterpreter(tmp_path)


@pytest.mark.parametrize("path", [None, "", b"ensemble.tflite", 3])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(EnsembleError, match=f"`path` must be that of a .tflite file, .*{path!r}"):
        EnsembleInterpreter(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "it is empty"), (b"TFL3", "doesn't start"), (b"\x89PNG" * 99, "doesn't start")],
)
def test_files_that_are_no_models_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "other.tflite"
    file.write_bytes(content)
    with pytest.raises(EnsembleError, match=rf"other\.tflite.*no \.tflite model.*{reason}"):
        EnsembleInterpreter(file)


def test_another_tflite_model_is_refused(tmp_path: Path) -> None:
    from larq_ensemble.keras import keras, tf

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    file = tmp_path / "stock.tflite"
    file.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    with pytest.raises(EnsembleError, match="no ensemble of this package"):
        EnsembleInterpreter(file)


def test_truncated_files_are_refused(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    file = tmp_path / "short.tflite"
    lengths = {*range(200), *range(200, len(data), 97), len(data) - 1}
    for length in lengths:
        file.write_bytes(data[:length])
        with pytest.raises(EnsembleError, match=r"short\.tflite"):
            EnsembleInterpreter(file)


def test_flipped_bits_are_noticed(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checksum covers the whole file, so nothing damaged reaches the C++ interpreter."""

    def opened(*_: Any) -> None:
        raise AssertionError("A damaged file was opened.")

    monkeypatch.setattr("larq_ensemble.runtime.interpreter.open_interpreter", opened)
    data = path.read_bytes()
    file = tmp_path / "flipped.tflite"
    draw = np.random.default_rng(0)
    for position in {*range(64), *draw.integers(0, len(data), 300).tolist()}:
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(draw.integers(8))
        file.write_bytes(damaged)
        with pytest.raises(EnsembleError, match=r"flipped\.tflite"):
            EnsembleInterpreter(file)


def test_prediction_imports_no_tensorflow(path: Path) -> None:
    program = f"""
import sys
import numpy as np
from larq_ensemble.runtime import EnsembleInterpreter

ensemble = EnsembleInterpreter({str(path)!r}, members=2, threads=1)
probabilities = ensemble.predict(np.zeros((3, *ensemble.input_shape), np.uint8))
ensemble.members = 3
ensemble.predict(np.zeros((3, *ensemble.input_shape), np.uint8))
assert probabilities.shape == (3, 4) and probabilities.dtype == np.float32
assert not {{"tensorflow", "keras", "tf_keras", "larq"}} & set(sys.modules)
assert "larq_ensemble.runtime.calibration" not in sys.modules
# LCE itself can still be imported: its extension must not be loaded a second time.
EnsembleInterpreter({str(path)!r}, backend="lce")
from larq_compute_engine.tflite.python import interpreter_wrapper_lite
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr


def test_the_interpreter_works_after_lce_was_imported(path: Path) -> None:
    import larq_compute_engine as lce

    assert lce.testing.Interpreter(path.read_bytes())
    assert EnsembleInterpreter(path, backend="lce").members == MEMBERS


def test_the_interpreter_of_lce_runs_the_file(path: Path, images: np.ndarray) -> None:
    import larq_compute_engine as lce

    interpreter = lce.testing.Interpreter(path.read_bytes())
    inputs = [images.astype(np.float32), np.full((len(images),), 1, np.int32)]
    if interpreter.input_shapes[0] == (1,):
        inputs.reverse()
    try:
        logits = interpreter.predict(inputs)
    except RuntimeError:
        pytest.fail("LCE's own interpreter refuses the file")
    expected = EnsembleInterpreter(path, backend="lce").predict_logits(images)[1]
    np.testing.assert_allclose(logits, expected)


@pytest.fixture(scope="module")
def calibrated(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same file, calibrated so that some images stop early."""
    copy = tmp_path_factory.mktemp("calibrated") / "ensemble.tflite"
    shutil.copy(path, copy)
    draw = np.random.default_rng(2)
    pixels = draw.integers(0, 256, (40, *SHAPE), np.uint8)
    calibrate(copy, pixels, draw.integers(0, CLASSES, 40), mean_members=2)
    return copy


def test_calibration_changes_only_the_metadata(path: Path, calibrated: Path) -> None:
    before, after = path.read_bytes(), calibrated.read_bytes()
    metadata = before.index(b'{"scheme"')
    assert before[: metadata - 4] == after[: metadata - 4]  # 4 bytes: the length of the metadata
    assert len(after) % 16 == 0
    one, other = EnsembleInterpreter(path).metadata, EnsembleInterpreter(calibrated).metadata
    assert len(other.temperatures) == len(other.top1) == MEMBERS
    assert len(other.cascade.thresholds) == MEMBERS - 1
    same = dataclasses.replace(other, temperatures=None, cascade=None, top1=None, sha256=one.sha256)
    assert same == one
    # Calibrated again, the file doesn't grow.
    pixels = np.random.default_rng(2).integers(0, 256, (40, *SHAPE), np.uint8)
    calibrate(calibrated, pixels, np.zeros(40, int))
    calibrate(calibrated, pixels, np.arange(40) % CLASSES, mean_members=2)
    assert abs(calibrated.stat().st_size - len(after)) <= 32


def test_a_file_swapped_while_it_is_measured_stays_as_it_is(
    path: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It got the thresholds of the other file, whatever its members were."""
    copy = Path(shutil.copy(path, tmp_path))
    measure = EnsembleInterpreter.predict_logits

    def swapped_meanwhile(ensemble: EnsembleInterpreter, images: np.ndarray) -> np.ndarray:
        shutil.copy(calibrated, copy)
        return measure(ensemble, images)

    monkeypatch.setattr(EnsembleInterpreter, "predict_logits", swapped_meanwhile)
    with pytest.raises(EnsembleError, match=r"ensemble\.tflite' was changed while it was measured"):
        calibrate(copy, np.zeros((20, *SHAPE), np.uint8), np.arange(20) % CLASSES)
    assert copy.read_bytes() == calibrated.read_bytes()


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (np.eye(CLASSES)[[0, 1]], {}, "not one-hot"),
        ([0], {}, "for 2 images"),
        ([0, CLASSES], {}, "from 0 to 3"),
        ([0, 1], {"mean_members": MEMBERS + 1}, "`mean_members`"),
    ],
)
def test_bad_labels_and_limits_are_refused_before_the_work(
    path: Path, monkeypatch: pytest.MonkeyPatch, labels: object, options: dict, message: str
) -> None:
    monkeypatch.setattr(EnsembleInterpreter, "predict_logits", None)
    with pytest.raises(EnsembleError, match=message):
        calibrate(path, np.zeros((2, *SHAPE), np.uint8), labels, **options)


def test_logits_that_are_no_numbers_are_refused() -> None:
    from larq_ensemble.runtime.calibration import fit

    with pytest.raises(EnsembleError, match="NaN or infinite"):
        fit(np.full((2, 3, 4), np.nan), np.zeros(3, int), "fusion")


def test_adaptive_prediction(calibrated: Path) -> None:
    images = np.random.default_rng(3).integers(0, 256, (30, *SHAPE), np.uint8)
    ensemble = EnsembleInterpreter(calibrated)
    by_count = []
    for ensemble.members in (1, 2, 3):
        by_count.append(ensemble.predict(images))
        np.testing.assert_allclose(by_count[-1].sum(axis=1), 1, rtol=1e-5)
        plain = combine(ensemble.predict_logits(images), "adaboost", WEIGHTS)
        np.testing.assert_array_equal(by_count[-1].argmax(axis=1), plain.argmax(axis=1))
    probabilities, members = ensemble.predict_adaptive(images)
    assert len(set(members.tolist())) > 1
    expected = np.stack(by_count)[members - 1, np.arange(30)]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    np.testing.assert_array_equal(ensemble.predict(images, adaptive=True), probabilities)
    # Each image by itself, as from a camera.
    np.testing.assert_array_equal(ensemble.predict(images[7], adaptive=True)[0], probabilities[7])
    ensemble.members = 2
    np.testing.assert_array_equal(ensemble.predict_adaptive(images).members, np.minimum(members, 2))
    assert ensemble.predict(images[:0], adaptive=True).shape == (0, CLASSES)


def test_adaptive_prediction_needs_calibration(path: Path, images: np.ndarray) -> None:
    with pytest.raises(EnsembleError, match=r"no thresholds.*larq-ensemble calibrate"):
        EnsembleInterpreter(path).predict(images, adaptive=True)


def test_a_budget_sets_the_members(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert EnsembleInterpreter(path, power_mode="power-saver").members == 1
    assert EnsembleInterpreter(path, max_latency_ms=1e6).members == MEMBERS
    ensemble = EnsembleInterpreter(path, power_mode="balanced")
    assert ensemble.members == 2
    # The trunk counts once, however many members there are.
    monkeypatch.setattr(ensemble, "_measured_ms", lambda: (1.0, 3.0))
    ensemble.set_budget(max_latency_ms=7)
    assert ensemble.members == 2
    with pytest.warns(UserWarning, match="One run takes 4 ms here, more than the 3.5 ms"):
        ensemble.set_budget(max_latency_ms=3.5)
    assert ensemble.members == 1
    ensemble.set_budget()
    assert ensemble.members == MEMBERS
    with pytest.raises(EnsembleError, match=r"Give one of .*Received: 2, None and 'balanced'"):
        ensemble.set_budget(members=2, power_mode="balanced")
    with pytest.raises(EnsembleError, match="Unknown power mode 'eco'"):
        EnsembleInterpreter(path, power_mode="eco")


def test_the_latency_is_the_median_of_all_runs_but_the_first(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble = EnsembleInterpreter(path)
    # Seconds of the trunk and of a member, in each run.
    runs = [(9, 9), (0.005, 0.02), (0.001, 0.04), (8, 0.03)]
    clock = itertools.accumulate(
        itertools.chain([0], *((trunk, member, 0) for trunk, member in runs))
    )
    monkeypatch.setattr(
        "larq_ensemble.runtime.interpreter.time", SimpleNamespace(perf_counter=clock.__next__)
    )
    assert ensemble.measure_latency_ms(3) == pytest.approx(5 + 30)
    assert len([*clock]) == 1


def test_each_thread_has_its_interpreter(path: Path) -> None:
    """Threads with interpreters of their own predict what one thread predicts."""
    images = np.random.default_rng(4).integers(0, 256, (60, *SHAPE), np.uint8)
    expected = EnsembleInterpreter(path, kernel="builtin").predict(images)
    own = threading.local()

    def answer(index: int) -> np.ndarray:
        if not hasattr(own, "ensemble"):
            own.ensemble = EnsembleInterpreter(path, threads=2, kernel="builtin")
        return own.ensemble.predict(images[index])[0]

    with ThreadPoolExecutor(4) as pool:
        np.testing.assert_array_equal(np.stack(list(pool.map(answer, range(60)))), expected)


def test_the_kernels_give_equal_logits(path: Path, images: np.ndarray) -> None:
    """The two fast kernels of LCE against each other and against its reference kernel."""
    file = read_ensemble(path)
    expected = EnsembleInterpreter(path, kernel="indirect").predict_logits(images)
    by_default = EnsembleInterpreter(path, kernel="default").predict_logits(images)
    np.testing.assert_array_equal(by_default, expected)
    for reference, indirect in ((False, False), (True, False)):
        interpreter = lce.load_extension().LiteInterpreter(file.data, 1, reference, indirect, False)
        inputs = [np.empty(0)] * 2
        for member in range(MEMBERS):
            for i, image in enumerate(images):
                inputs[file.graphs[0].inputs["image"]] = image[np.newaxis].astype(np.float32)
                inputs[file.graphs[0].inputs["member"]] = np.array([member], np.int32)
                (logits,) = interpreter.predict(inputs)
                np.testing.assert_array_equal(logits[0], expected[member, i])


def test_the_start_up_is_short(path: Path) -> None:
    """Import and first prediction take a few times as long as Python and NumPy need to start.

    Both in processor time of one process, so another machine and other load hardly matter.
    """
    program = f"""
import time
import numpy as np
before = time.process_time()
from larq_ensemble.runtime import EnsembleInterpreter

ensemble = EnsembleInterpreter({str(path)!r})
ensemble.predict(np.zeros((1, *ensemble.input_shape), np.uint8))
print(time.process_time() / before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 6


def test_the_file_is_read_once(path: Path, tmp_path: Path, images: np.ndarray) -> None:
    copy = shutil.copy(path, tmp_path / "copy.tflite")
    ensemble = EnsembleInterpreter(copy)
    expected = ensemble.predict(images)
    Path(copy).unlink()
    np.testing.assert_array_equal(ensemble.predict(images), expected)
