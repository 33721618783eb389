"""Stopping rules by hand, and their comparison on made-up logits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from larq_ensemble.runtime.calibration import fit
from larq_ensemble.runtime.combination import softmax

from .conftest import ROOT, load

M, N, CLASSES = 5, 300, 6

#: Of one image: logits of three members for three classes, and the calibrated prediction.
LOGITS = np.array([[[2.0, 1.0, 0.0]], [[0.0, 3.0, 1.0]], [[5.0, 1.0, 1.0]]])
PREDICTION = np.array([[0.6, 0.3, 0.1]])
SPREAD = 0.5
#: The margins between the first two classes are 1, -3 and 4: their mean is 2 / 3.
SQUARES = (1 - 2 / 3) ** 2 + (-3 - 2 / 3) ** 2 + (4 - 2 / 3) ** 2
BY_HAND = {
    "log margin": math.log(2),
    "sequential test": (2 / 3) / math.sqrt((4 * SPREAD**2 + SQUARES) / (4 + 2)),
    "probability margin": -math.log(1 - 0.6 + 0.3),
    "probability": -math.log(0.4),
    "entropy": -math.log(
        -(0.6 * math.log(0.6) + 0.3 * math.log(0.3) + 0.1 * math.log(0.1)) / math.log(3)
    ),
    "agreement": 2 / 3,
    "agreement, then margin": 2 + math.log(2) / (1 + math.log(2)),
    # The sums lead to class 0 after one member, to class 1 after two, to class 0 after three.
    "patience": 1,
}


@pytest.fixture(scope="module")
def cascade():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")  # scripts import each other
        yield load("cascade")


def ensemble(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits `[M, n, classes]` and labels drawn from what the members have in common."""
    draw = np.random.default_rng(seed)
    common = draw.normal(0, 3, (N, CLASSES))
    labels = (softmax(common).cumsum(axis=1) > draw.random((N, 1))).argmax(axis=1)
    return (common + draw.normal(0, 2, (M, N, CLASSES))).astype(np.float32), labels


def test_every_rule_by_hand(cascade) -> None:
    assert set(cascade.RULES) == set(BY_HAND)
    for name, rule in cascade.RULES.items():
        found = rule.confidence(LOGITS, PREDICTION, SPREAD)
        np.testing.assert_allclose(found, [BY_HAND[name]], 1e-6, err_msg=name)


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_confidences_are_finite_and_not_negative(cascade, name: str) -> None:
    sure = np.array([[1.0, 0, 0]], np.float32)
    even = np.full((1, 3), 1 / 3, np.float32)
    for logits in (LOGITS, np.zeros((2, 1, 3))):
        for prediction in (sure, even, PREDICTION):
            found = cascade.RULES[name].confidence(logits, prediction, SPREAD)
            assert 0 <= found[0] < np.inf


def test_tables_figure_and_numbers(cascade, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"validation": ensemble(0), "test": ensemble(1)}
    metadata = SimpleNamespace(scheme="fusion", weights=None, dataset="noise")
    fake = SimpleNamespace(
        ensemble=SimpleNamespace(metadata=metadata),
        of=lambda split: data[split][0],
        labels=lambda split: data[split][1],
        under=lambda kind, severity, count: data["test"][0][:, :count] / severity,
    )
    monkeypatch.setattr(cascade, "Logits", lambda *arguments: fake)
    few = ("log margin", "agreement")
    monkeypatch.setattr(cascade, "RULES", {name: cascade.RULES[name] for name in few})
    file, page = tmp_path / "made.tflite", tmp_path / "page.md"
    file.touch()
    other = f"{cascade.BEGIN.format('cifar10')}\nkept\n{cascade.END.format('cifar10')}"
    begin, end = cascade.BEGIN.format("noise"), cascade.END.format("noise")
    page.write_text(f"{other}\nbefore\n{begin}\nstale\n{end}\nafter\n")
    arguments = [file, "--accuracy-loss", "1", "--shift", "50", "--write", page]
    arguments += ["--out", tmp_path / "rules", "--json", tmp_path / "rules.json"]
    done = CliRunner().invoke(cascade.main, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = json.loads(Path(tmp_path, "rules.json").read_text())
    assert len(result["rules"]) == len(few) + 2
    calibrated = cascade.Calibrated(*data["validation"], "fusion")
    # The log margin is what `calibrate` writes into the file.
    with pytest.warns(UserWarning, match="few"):
        calibration = fit(*data["validation"], "fusion", mean_members=0.35 * M)
    ours, limit = result["rules"]["log margin"], "35 % of members"
    assert tuple(ours["thresholds"][limit]) == calibration.chosen.cascade.thresholds
    score = calibration.score(*data["test"], calibration.chosen)
    full = calibration.score_fixed(*data["test"], M)
    found = ours["test"][limit]
    assert found["members"] == pytest.approx(score.mean_members)
    assert found["lost"] == pytest.approx(full.top1 - score.top1)
    assert "on 50 test images under each of 15" in page.read_text()
    assert ours["by_severity"]["0"] != ours["test"]  # of all images
    # Corruptions of one image fall alike here: fifteen of them tell no more than one.
    once = calibrated.images(data["test"][0][:, :50] / 5, data["test"][1][:50])
    assert ours["by_severity"]["5"][limit] == pytest.approx(
        once.score("log margin", ours["thresholds"][limit])._asdict()
    )
    as_they_are = calibrated.images(data["test"][0][:, :50], data["test"][1][:50])
    assert ours["by_severity"]["0"][limit] == pytest.approx(
        as_they_are.score("log margin", ours["thresholds"][limit])._asdict()
    )
    assert ours["by_severity"]["5"][limit]["members"] > found["members"]
    # After three members no image stops if only 1, 2 and 4 are looked at.
    assert result["rules"]["log margin, after 1, 2, 4, 8 only"]["thresholds"]["1 points"][2] is None
    alike = result["rules"]["log margin, one threshold"]["thresholds"]["1 points"]
    assert len(set(alike)) == 1
    for rule in result["rules"].values():
        assert rule["test"][limit]["members"] < 0.35 * M + 0.2
    text = page.read_text()
    assert text.startswith(f"{other}\nbefore\n")
    assert text.endswith("after\n")
    assert "stale" not in text
    assert all(f"| {name} |" in text for name in few)
    assert {path.suffix for path in tmp_path.glob("rules.*")} == {".png", ".svg", ".json"}


def test_logits_are_computed_once(cascade, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = ensemble(0)
    images = np.zeros((N, 8, 8, 1), np.uint8)
    asked: list[int] = []

    def predict_logits(asked_for: np.ndarray) -> np.ndarray:
        asked.append(len(asked_for))
        return logits[:, : len(asked_for)]

    file = tmp_path / "made.tflite"
    file.write_bytes(b"made")
    fake = SimpleNamespace(predict_logits=predict_logits, metadata=None)
    monkeypatch.setattr(cascade, "EnsembleInterpreter", lambda *args, **options: fake)
    split = SimpleNamespace(images=images, labels=labels)
    few = SimpleNamespace(images=images[:7])
    subject = SimpleNamespace(split=lambda name, limit=None: split if limit is None else few)
    monkeypatch.setattr(cascade, "subject_of", lambda *args, **options: subject)
    for _ in range(2):
        kept = cascade.Logits(str(file), str(tmp_path), None, None, 0)
        np.testing.assert_array_equal(kept.of("validation"), logits)
        np.testing.assert_array_equal(kept.labels("validation"), labels)
        assert kept.under("fog", 3, 7).shape == (M, 7, CLASSES)
    assert asked == [N, 7]
    file.write_bytes(b"another")
    cascade.Logits(str(file), str(tmp_path), None, None, 0).of("test")
    assert asked == [N, 7, N]
