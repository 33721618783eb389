"""The common look, and the plot of a cascade, as matplotlib holds it."""

import numpy as np
import pytest

from larq_ensemble.runtime.calibration import Score
from larq_ensemble.training.plots import draw_cascade, draw_trust, look, save


def test_one_look_for_a_scheme_and_for_a_policy():
    assert look("fusion", "fusion") == look("fusion", None)
    assert look("voting", "fusion") != look("fusion", "fusion")
    # Of fusion ensembles with another policy, the policy's.
    assert look("fusion", "c2") == look("voting", "c2") != look("fusion", "fusion")
    assert look(None, None)[1] == ""  # a single network is a line without markers
    # What has no look of its own gets that of all others.
    assert look("fusion", "re:.*") == look("stacking", "fusion") != look(None, None)


def test_a_cascade_is_drawn_from_its_scores(tmp_path):
    adaptive = [Score(2.5, 60.0, ()), Score(1.2, 55.0, ()), Score(1.8, 59.0, ())]
    fixed = [Score(1.0, 54.0, ()), Score(2.0, 57.0, ()), Score(3.0, 60.5, ())]
    canvas = draw_cascade(adaptive, fixed, adaptive[2], dataset="cifar100")
    (axes,) = canvas.axes
    curve, steps, chosen = (np.array(line.get_data()).T.tolist() for line in axes.lines)
    assert curve == [[1.2, 55], [1.8, 59], [2.5, 60]]
    assert steps == [[1, 54], [2, 57], [3, 60.5]]
    assert chosen == [[1.8, 59]]
    png, svg = save(canvas, tmp_path / "cascade")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "CIFAR-100, 3 members" in svg.read_text()


def test_dollars_in_a_name_are_no_mathematics(tmp_path):
    scores = [Score(1.0, 54.0, ())]
    canvas = draw_cascade(scores, scores, scores[0], dataset="$_{$photos")
    assert "$_{$photos, 1 members" in save(canvas, tmp_path / "cascade")[1].read_text()


def test_trust_is_drawn_for_powers_of_two_and_all_members():
    def rows(*values, **more):
        return [{"members": m, "ece": each, "top1": 50 + each, **more}
                for m, each in enumerate(values, 1)]  # fmt: skip

    calibration = rows(0.3, 0.2, 0.2, 0.1, 0.1, ece_calibrated=0.02, ece_by_chance=0.01)
    selective = [
        {"members": m, "uncertainty": name, "risks": {"50": 0.1 * m, "100": 0.15 * m}}
        for m in range(1, 6)
        for name in ("max_probability", "entropy")
    ]
    shift = {
        "kinds": ["fog", "snow"],
        "severities": [2, 4],
        "by_severity": [
            {"severity": 2, "by_members": rows(5, 4, 3, 2, 1, ece_calibrated=0.2)},
            {"severity": 4, "by_members": rows(9, 8, 7, 6, 5, ece_calibrated=0.4)},
        ],
    }
    result = {
        "dataset": "cifar100",
        "samples": 1000,
        "by_members": rows(0.4, 0.3, 0.2, 0.2, 0.2),
        "trust": {"calibration": calibration, "selective": selective},
        "shift": shift,
    }
    risks, by_members, top1, ece = draw_trust(result).axes
    assert [list(line.get_ydata()) for line in risks.lines] == [
        pytest.approx([10 * m, 15 * m]) for m in (1, 2, 4, 5)
    ]
    assert list(by_members.lines[0].get_ydata()) == [0.3, 0.2, 0.2, 0.1, 0.1]
    assert list(top1.lines[3].get_ydata()) == [50.2, 51, 55]
    assert list(top1.lines[3].get_xdata()) == [0, 2, 4]
    assert len(ece.lines) == 8  # as trained, and calibrated
    assert list(ece.lines[4].get_ydata()) == [0.02, 0.2, 0.4]
    assert len(draw_trust({**result, "shift": None}).axes) == 2
