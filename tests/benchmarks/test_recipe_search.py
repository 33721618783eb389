"""The rule by which ingredients are kept; the trainings are those of `pretrain`."""

from __future__ import annotations

import pytest

from larq_ensemble.errors import EnsembleError, UnknownNameError

from .conftest import load

search = load("recipe_search")

FOUND = {
    "base": [40.0, 42.0],
    "two_stages": [41.0, 42.1],  # better with both seeds, 0.55 on average
    "warmup": [43.0, 41.9],  # worse with one seed
    "label_smoothing": [40.2, 42.2],  # too little
    "lr_double": [40.5, 42.4],
    "lr_half": [40.4, 42.6],  # sets what lr_double sets, and gains more
}


def test_what_is_kept() -> None:
    judged = search.verdicts(FOUND, least=0.3)
    assert [name for name, verdict in judged.items() if verdict.kept] == ["two_stages", "lr_half"]
    assert judged["warmup"].differences == pytest.approx([3.0, -0.1])
    assert "base" not in judged
    kept = search.verdicts(FOUND, least=0.1)
    assert kept["label_smoothing"].kept
    assert not kept["warmup"].kept


def test_all_kept_are_set_together() -> None:
    settings = search.together(["two_stages", "lr_half", "teacher"])
    assert settings == search.Settings(two_stages=True, lr=0.5, teacher=0.9)
    for name, (setting, value) in search.INGREDIENTS.items():
        assert getattr(search.Settings(), setting) != value, name


def test_the_table() -> None:
    judged = search.verdicts(FOUND, least=0.3)
    rows = search.rows({**FOUND, "all kept together": [41.5, 43.5]}, judged)
    assert rows[0] == ["base", "40.00, 42.00", "41.00 ± 1.41", "", ""]
    assert rows[1][3:] == ["0.55 ± 0.64", "kept"]
    assert rows[2][4] == "dropped"
    assert rows[-1] == ["all kept together", "41.50, 43.50", "42.50 ± 1.41", "1.50 ± 0.00", ""]


def test_which_can_be_tried() -> None:
    none = {"from_real": None, "teacher": None}
    assert "teacher_half" not in search.chosen(None, none)
    assert "two_stages" in search.chosen(None, none)
    taught = search.chosen(None, {**none, "teacher": "runs/teacher"})
    assert ("teacher" in taught, "from_real" in taught) == (True, False)
    assert [*search.INGREDIENTS] == search.chosen(None, dict.fromkeys(none, "run"))
    with pytest.raises(EnsembleError, match="'from_real' needs a trained run: give `real`"):
        search.chosen(["warmup", "from_real"], none)
    with pytest.raises(EnsembleError, match="'teacher_half' needs a trained run: give `teacher`"):
        search.chosen(["teacher_half"], none)
    with pytest.raises(UnknownNameError, match=r"ingredient 'mixup'.*augment_mix"):
        search.chosen(["mixup"], none)
