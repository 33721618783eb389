"""Trust of networks that are functions in NumPy, so what is right is known; and without TensorFlow.

That a run and a file give the same logits, the tests of `evaluate` and of the converter show.
"""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from larq_ensemble import pretrained
from larq_ensemble.cli import main
from larq_ensemble.data.corruptions import corrupt
from larq_ensemble.data.datasets import DATASETS, Split, Splits
from larq_ensemble.errors import EnsembleError
from larq_ensemble.pretrained.samples import read_samples
from larq_ensemble.runtime import EnsembleInterpreter
from larq_ensemble.runtime.combination import combine, softmax
from larq_ensemble.runtime.metrics import expected_calibration_error, top_k_accuracy
from larq_ensemble.training import evaluation, trust
from larq_ensemble.training.evaluation import evaluate
from larq_ensemble.training.subject import Subject

ROOT = Path(__file__).parents[2]
M, CLASSES = 3, 10


def answers(n: int, seed: int, *, spread: float = 2.0, boldness: float = 1.0):
    """Logits `[M, n, CLASSES]` of members that know a part of what the labels are drawn from."""
    draw = np.random.default_rng(seed)
    common = draw.normal(0, spread, (n, CLASSES))
    labels = (softmax(common).cumsum(axis=1) > draw.random((n, 1))).argmax(axis=1)
    logits = boldness * (common + draw.normal(0, 1.5, (M, n, CLASSES)))
    return logits.astype(np.float32), labels


def brightness_of(data: Split) -> np.ndarray:
    """Each member takes an image for the digit that its brightness says, and errs by itself."""
    brightness = np.asarray(data.images).mean(axis=(1, 2, 3)) / 256 * CLASSES
    places = brightness[:, np.newaxis] - np.arange(CLASSES)
    return np.stack([-((places - member / 2) ** 2) for member in range(M)]).astype(np.float32)


@pytest.fixture
def subject():
    empty = Split(np.zeros((0, 8, 8, 1), np.uint8), np.zeros(0, np.int32))
    return Subject(
        name="a function",
        members=M,
        scheme="voting",
        weights=None,
        temperatures=None,
        dataset=DATASETS["digits"],
        is_own=True,
        held_out_is_known=True,
        read=lambda: Splits(empty, empty, empty),
        logits_of=brightness_of,
    )


def test_a_temperature_mends_what_is_overconfident(subject):
    fitted_on, test = (answers(4000, seed, boldness=2.0) for seed in (0, 1))
    fusion = dataclasses.replace(subject, scheme="fusion")
    rows = trust.calibration(fusion, fitted_on, test, [1, 2, 3])
    assert [row["members"] for row in rows] == [1, 2, 3]
    for row in rows:
        predicted = combine(test[0][: row["members"]], "fusion")
        assert row["ece"] == pytest.approx(expected_calibration_error(predicted, test[1]))
        assert row["temperature"] > 1.2
        assert row["ece"] > 0.1
        # What is left is hardly more than chance.
        assert row["ece_calibrated"] < row["ece_by_chance"] + 0.015 < 0.035
        assert row["nll_calibrated"] < row["nll"]


def test_sets_hold_what_they_promise_and_get_smaller_with_more_members(subject):
    fitted_on, test = (answers(2000, seed) for seed in (2, 3))
    rows = trust.conformal(subject, fitted_on, test, [1, 3])
    assert len(rows) == 2 * len(trust.ALPHAS) * 2
    for row in rows:
        low, high = row["expected_coverage"]
        assert low < 1 - row["alpha"] < high
        assert high - low < 0.06
        assert low - 0.01 < row["coverage"] < high + 0.01
    sizes = {(row["members"], row["alpha"], row["method"]): row["mean_size"] for row in rows}
    for alpha in trust.ALPHAS:
        assert sizes[3, alpha, "lac"] < sizes[1, alpha, "lac"] < CLASSES
        assert sizes[3, alpha, "aps"] < sizes[1, alpha, "aps"] < CLASSES


def test_sets_from_too_few_images_are_all_classes(subject):
    """The 95 % need 19 images: the least n with ceil(0.95 (n + 1)) <= n."""
    test = answers(50, 3)
    for fitted, is_enough in ((18, False), (19, True)):
        rows = trust.conformal(subject, answers(fitted, 2), test, [3])
        for row in rows[len(rows) // 2 :]:
            assert row["alpha"] == 0.05
            assert (row["mean_size"] == CLASSES) == (row["expected_coverage"] == [1, 1])
            assert (row["expected_coverage"][0] < 1) == is_enough


def test_accuracy_of_the_surest_images(subject):
    test = answers(1000, 4)
    rows = trust.selective(subject, test, [1, 3])
    by = {(row["members"], row["uncertainty"]): row for row in rows}
    assert len(by) == 3 + 5  # one member disagrees with nobody
    predicted = combine(test[0], "voting")
    surest = np.argsort(-predicted.max(axis=1), kind="stable")[:500]
    row = by[3, "max_probability"]
    assert row["top1_at"]["50"] == pytest.approx(
        top_k_accuracy(predicted[surest], test[1][surest], k=1)
    )
    assert row["top1_at"]["100"] == pytest.approx(top_k_accuracy(predicted, test[1], k=1))
    assert row["risks"]["50"] == pytest.approx(1 - row["top1_at"]["50"] / 100)
    assert row["e_aurc"] < row["aurc"] < row["risks"]["100"]


def test_images_that_no_member_knows_are_uncertain(subject):
    inside, _ = answers(400, 5, spread=5.0)
    outside = np.random.default_rng(6).normal(0, 1, (M, 300, CLASSES)).astype(np.float32)
    rows = trust.out_of_distribution(subject, inside, outside, [1, 3])
    by = {(row["members"], row["uncertainty"]): row for row in rows}
    assert len(by) == 3 + 5
    for row in rows:
        assert row["auroc"] > 0.65
    # AUROC is the share of pairs that are in the right order, equal ones by half.
    own, foreign = (trust.uncertainties(combine(each, "voting"), each)["disagreement"]
                    for each in (inside, outside))  # fmt: skip
    pairs = np.sign(foreign[:, np.newaxis] - own)
    assert by[3, "disagreement"]["auroc"] == pytest.approx((pairs.mean() + 1) / 2)
    swapped = trust.out_of_distribution(subject, outside, inside, [3])
    assert swapped[0]["auroc"] == pytest.approx(1 - by[3, "max_probability"]["auroc"])


def test_corrupted_images(subject, digits):
    data = digits[1].first(60)
    result = trust.shift(
        subject,
        data,
        [1, 3],
        kinds=["brightness", "fog"],
        severities=[1, 5],
        seed=3,
        temperatures={1: 2.0, 3: 1.5},
    )
    assert [(row["kind"], row["severity"]) for row in result["rows"]] == [
        ("brightness", 1),
        ("brightness", 5),
        ("fog", 1),
        ("fog", 5),
    ]
    changed = Split(corrupt(data.images, "fog", 5, seed=3), data.labels)
    predicted = combine(brightness_of(changed), "voting")
    row = result["rows"][3]["by_members"][1]
    assert row["members"] == 3
    assert row["top1"] == pytest.approx(top_k_accuracy(predicted, data.labels, k=1))
    tempered = softmax(np.log(predicted) / 1.5)
    assert row["ece_calibrated"] == pytest.approx(
        expected_calibration_error(tempered, data.labels), abs=1e-6
    )
    severest = [row["by_members"][0]["ece"] for row in result["rows"] if row["severity"] == 5]
    assert result["by_severity"][1]["by_members"][0]["ece"] == pytest.approx(np.mean(severest))
    every = [row["by_members"][1]["top1"] for row in result["rows"]]
    assert result["mean"][1] == {**result["mean"][1], "members": 3, "top1": np.mean(every)}


def test_logits_that_are_not_finite_and_splits_that_are_not_there(subject, digits):
    broken = dataclasses.replace(subject, logits_of=lambda data: np.full((M, 1, CLASSES), np.nan))
    with pytest.raises(EnsembleError, match="logits of member 0 are not all finite"):
        broken.logits(digits[1])
    with pytest.raises(EnsembleError, match="a function held out no validation data"):
        subject.split("validation")
    unknown = dataclasses.replace(subject, held_out_is_known=False)
    with pytest.raises(EnsembleError, match="a function held out is not known"):
        unknown.split("validation")


def without_tensorflow(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of larq-ensemble where TensorFlow is not installed."""
    program = """
import sys
missing = "tensorflow tf_keras keras larq larq_compute_engine tensorflow_datasets"
sys.modules.update(dict.fromkeys(missing.split()))
from larq_ensemble.cli import main
main(sys.argv[1:])
"""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_a_name_of_the_package_needs_tensorflow_its_file_does_not(tmp_path):
    name = pretrained.names()[0]
    done = without_tensorflow(tmp_path, "evaluate", name)
    assert done.returncode == 1
    assert "need TensorFlow" in done.stderr
    assert "Traceback" not in done.stderr
    # What it says to do works.
    advised = re.findall(r"`larq-ensemble ([^`]*)`", done.stderr)
    assert len(advised) == 2
    samples = read_samples("cifar10")
    for index, label in enumerate(samples.labels):
        folder = tmp_path / "DIR" / samples.class_names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(samples.images[index]).save(folder / f"{index}.png")
    assert pretrained.shipped(name).card["data"]["name"] == "cifar10"
    for command in advised:
        done = without_tensorflow(tmp_path, *command.split())
        assert done.returncode == 0, done.stderr


def test_a_file_is_evaluated_without_tensorflow(tmp_path):
    """Half of what the file answers is given as labels, so its accuracy is known."""
    golden = np.load(ROOT / "tests/data/compact.npz")
    images, answered = golden["images"], golden["probabilities"].argmax(axis=1)
    wrong = np.arange(len(images)) % 2
    labels = (answered + wrong) % 5
    every = np.arange(10)
    for name, seed in (("set", 0), ("same", 1)):  # of the same test images
        np.savez(
            tmp_path / f"{name}.npz",
            train_images=np.random.default_rng(seed).integers(0, 256, (10, 8, 8, 3), np.uint8),
            train_labels=every % 5,
            test_images=images,
            test_labels=labels,
        )
    arguments = ["evaluate", str(ROOT / "tests/data/compact.tflite"), "--dataset", "npz:set.npz"]
    arguments += ["--trust", "--ood", "npz:same.npz,noise", "--shift", "fog", "--severities", "2"]
    done = without_tensorflow(tmp_path, *arguments, "--json", "-")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["samples"] == len(images)
    assert result["members"] == 3
    assert result["top1"] == pytest.approx(100 * np.mean(wrong == 0))
    assert result["trust"]["fitted_on"] == "half of the test split"
    assert result["trust"]["samples"] == len(images) // 2
    assert {row["auroc"] for row in result["ood"][0]["by_members"]} == {0.5}  # the same images
    assert result["ood"][1]["samples"] == len(images)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--severities", "1"], 2, "--severities has no effect without --shift"),
        (
            ["--ood", "noise,nothing"],
            1,
            "--ood 'nothing' is neither 'noise' nor data that can be "
            "read. Unknown dataset 'nothing'",
        ),
        (["--shift", "snw"], 1, "Unknown --shift 'snw'. Known: all, "),
        (["--ood", "npz:none.npz"], 1, "There is no file"),
        (["--ood", "npz:set.npz"], 1, "is what the network is evaluated on"),
    ],
)
def test_mistakes_are_told_before_the_work(
    arguments, status, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(EnsembleInterpreter, "predict_logits")
    images = np.zeros((5, 8, 8, 3), np.uint8)
    np.savez("set.npz", x_train=images, y_train=range(5), x_test=images, y_test=range(5))
    run = ["evaluate", str(ROOT / "tests/data/compact.tflite"), "--dataset", "npz:set.npz"]
    with pytest.raises(SystemExit) as ended:
        main([*run, *arguments])
    assert ended.value.code == status
    assert message in capsys.readouterr().err


def test_the_folder_of_tfds_is_for_the_data_that_are_read_from_it(tmp_path, monkeypatch):
    """Whether these are its own or others, and whatever the rest is read from."""
    images = np.zeros((5, 8, 8, 3), np.uint8)
    set_of = {"x_train": images, "y_train": range(5), "x_test": images, "y_test": range(5)}
    monkeypatch.chdir(tmp_path)
    np.savez("set.npz", **set_of)
    folders = {}

    def images_as_input(spec, input_shape, *, data_dir):
        folders[spec] = data_dir
        return spec, images

    monkeypatch.setattr(evaluation, "images_as_input", images_as_input)
    network = EnsembleInterpreter(ROOT / "tests/data/compact.tflite")
    ood = ["digits", "cifar10", "noise"]
    result = evaluate(network, dataset="npz:set.npz", data_dir="tfds", ood=ood)
    assert [each["dataset"] for each in result["ood"]] == ood
    assert folders == {"digits": None, "cifar10": "tfds"}
    with pytest.raises(EnsembleError, match="`data_dir` 'tfds' has no effect"):
        evaluate(network, dataset="npz:set.npz", data_dir="tfds", ood=["digits"])


def test_data_of_another_kind_are_told_by_what_they_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.zeros((5, 8, 8, 3), np.uint8)
    set_of = {"x_train": images, "y_train": range(5), "x_test": images, "y_test": range(5)}
    np.savez("set.npz", **set_of)
    shutil.copy("set.npz", "copy.npz")
    Path("other").mkdir()
    np.savez("other/set.npz", **{**set_of, "x_test": images + 1})
    network = EnsembleInterpreter(ROOT / "tests/data/compact.tflite")
    for same in ("npz:copy.npz", f"npz:{tmp_path / 'set.npz'}"):
        with pytest.raises(EnsembleError, match="is what the network is evaluated on"):
            evaluate(network, dataset="npz:set.npz", ood=[same])
    result = evaluate(network, dataset="npz:set.npz", ood=["npz:other/set.npz"])
    assert result["ood"][0]["dataset"] == "npz:set.npz"


def test_severities_that_there_are_not():
    with pytest.raises(EnsembleError, match="`severities` must be a whole number from 1 to 5"):
        evaluate(None, shift=["fog"], severities=[1, 6])
    with pytest.raises(EnsembleError, match="`severities` is empty"):
        evaluate(None, shift=["fog"], severities=[])
