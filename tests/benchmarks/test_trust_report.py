"""The tables; what they show is what `evaluate` measures."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from larq_ensemble import trained
from larq_ensemble.training import evaluation

from .conftest import load

report = load("trust_report")


def result(add: float) -> dict[str, Any]:
    """Of three members on one corruption; `add` tells seeds apart."""
    members = (1, 2, 3)
    errors = {"ece": 0.1 + add, "ece_calibrated": 0.02, "adaptive_ece_calibrated": 0.03}
    by_members = [{"members": m, "top1": 40 + m + add, **errors} for m in members]
    sets = {"alpha": 0.1, "method": "lac", "coverage": 0.91, "expected_coverage": [0.88, 0.92]}
    return {
        "dataset": "cifar100",
        "samples": 1000,
        "by_members": by_members,
        "trust": {
            "fitted_images": 500,
            "calibration": [
                {"members": m, "temperature": 1.1, "ece_by_chance": 0.01, **errors} for m in members
            ],
            "conformal": [{"members": m, "mean_size": 9.0 / m, **sets} for m in members],
            "selective": [
                {
                    "members": m,
                    "uncertainty": "max_probability",
                    "top1_at": {"100": 40.0, "50": 60.0 + m},
                    "aurc": 0.3,
                    "e_aurc": 0.1,
                }
                for m in members
            ],
        },
        "ood": [
            {
                "dataset": "noise",
                "samples": 7,
                "by_members": [
                    {"members": m, "uncertainty": kind, "auroc": 0.5 + m / 10, "fpr95": 0.9}
                    for m in members
                    for kind in ("entropy", "disagreement")[:m]
                ],
            }
        ],
        "shift": {
            "kinds": ["fog"],
            "severities": [1, 5],
            "rows": [
                {"kind": "fog", "severity": severity, "by_members": by_members}
                for severity in (1, 5)
            ],
            "by_severity": [
                {"severity": severity, "by_members": by_members} for severity in (1, 5)
            ],
            "mean": by_members,
        },
    }


def cells(text: str) -> list[list[str]]:
    return [row[2:-2].split(" | ") for row in text.splitlines()[4:]]


def test_one_run_has_no_deviation_and_two_have() -> None:
    one, two = result(0.0), result(0.5)
    calibration, sets, selective, foreign, top1, ece, calibrated, kinds = map(
        cells, report.tables([one], [one])
    )
    # 1, 2 and the last.
    assert [row[0] for row in calibration] == ["1", "2", "3"]
    assert calibration[2] == ["3", "43.00", "1.10", "0.1000", "0.0200", "0.0300", "0.0100"]
    assert sets[1] == ["2", "90", "LAC", "91.0", "88.0 to 92.0", "4.50"]
    assert selective[0] == ["1", "40.00", "61.00", "0.3000", "0.1000"]
    # Of a single member, disagreement isn't defined.
    assert foreign[0] == ["1", "0.600, 0.900", ""]
    assert foreign[1] == ["2", "0.700, 0.900", "0.700, 0.900"]
    assert top1[0] == ["1", "41.00", "41.00", "41.00", "41.00"]
    assert ece[0][1:] == ["0.100"] * 4
    assert calibrated[0][1:] == ["0.020"] * 4
    assert kinds == [["fog", "43.00", "43.00"]]
    with_two = cells(next(report.tables([one, two], [one, two])))
    # Of 41 and 41.5 the standard deviation is 0.5 / sqrt(2).
    assert with_two[0][1] == "41.25 ± 0.35"


def test_what_was_kept_of_the_first_images_of_ones_own_is_not_used(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a built-in data set a limit takes the same images as ever."""
    asked = []
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, limit: asked.append(limit) or {})
    for constants, expected in (({}, "first"), ({"source": {}}, "drawn")):
        network = SimpleNamespace(digest="ab", config=SimpleNamespace(dataset=constants))
        monkeypatch.setattr(trained, "open_trained", lambda run, network=network: network)
        before = json.dumps(["ab", {"data_dir": None, "limit": 7}], sort_keys=True)
        kept = tmp_path / f"{hashlib.sha256(before.encode()).hexdigest()[:16]}.json"
        kept.write_text('{"of": "first"}')
        found = report.evaluated("run", tmp_path, limit=7)
        assert found == ({"of": "first"} if expected == "first" else {})
    assert asked == [7]


def test_other_images_that_have_changed_are_evaluated_again(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = SimpleNamespace(dataset={"input_shape": [8, 8, 1]})
    network = SimpleNamespace(digest="ab", config=constants)
    asked: list[int] = []
    monkeypatch.setattr(trained, "open_trained", lambda run: network)
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: asked.append(1) or {})
    ood = ["cifar10", "noise", f"npz:{tmp_path / 'other.npz'}"]
    for value, times in ((0, 1), (0, 1), (1, 2)):
        images = np.full((4, 8, 8), value, np.uint8)
        np.savez(tmp_path / "other.npz", images=images, labels=[0, 1, 0, 1])
        report.evaluated("run", tmp_path, ood=ood, limit=None, data_dir="tfds")
        assert len(asked) == times


def test_few_of_many_members_are_shown() -> None:
    many = {"by_members": [{"members": m} for m in range(1, 11)]}
    assert report.shown(many) == [1, 2, 4, 8, 10]
