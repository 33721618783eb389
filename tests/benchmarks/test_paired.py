"""The paired difference against a table counted by hand, and what can't be compared."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from larq_ensemble.errors import EnsembleError
from larq_ensemble.pretrained import names, shipped

from .conftest import load

paired = load("paired")


def test_the_difference_and_its_error() -> None:
    """Of four images the other is right in one more, the first in one, both in one, none in one."""
    labels = np.array([0, 1, 0, 1])
    first = np.array([[0.4, 0.6], [0.4, 0.6], [0.9, 0.1], [0.7, 0.3]])  # wrong, right, right, wrong
    other = np.array([[0.8, 0.2], [0.6, 0.4], [0.9, 0.1], [0.8, 0.2]])  # right, wrong, right, wrong
    row = paired.compared("other", other, first, labels)
    assert row["top-1 %"] == 50
    assert row["difference"] == 0
    assert row["standard error"] == pytest.approx(100 * np.sqrt(0.5 / 4))  # d = 1, -1, 0, 0
    assert row["same class %"] == 50
    assert row["NLL"] == pytest.approx(-np.log([0.8, 0.4, 0.9, 0.2]).mean())
    same = paired.compared("first", first, first, labels)
    assert (same["difference"], same["standard error"], same["same class %"]) == (0, 0, 100)


def test_more_members_than_there_are(monkeypatch) -> None:
    """They are refused before a network is built."""
    name = next(name for name in names() if shipped(name).card["members"] == 1)
    monkeypatch.setattr(paired, "subject_of", None)
    with pytest.raises(EnsembleError, match=r"`members` must be from 1 to 1 .*, got 2"):
        CliRunner().invoke(
            paired.main,
            [name, name, "--members", "2"],
            standalone_mode=False,
            catch_exceptions=False,
        )
