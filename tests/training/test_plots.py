"""The common look, and the plot of a cascade, as matplotlib holds it."""

import numpy as np

from larq_ensemble.runtime.calibration import Score
from larq_ensemble.training.plots import draw_cascade, look, save


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
