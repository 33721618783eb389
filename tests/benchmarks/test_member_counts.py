"""The rule of the recommendation and the table; the trainings are those of `train`."""

from __future__ import annotations

import pytest

from .conftest import load

counts = load("member_counts")


def curve(way: str, top1: list[float], *, single: float = 40.0, backbone: str = "b0"):
    return counts.Curve(way, backbone, 0, single, top1, [], [])


def test_the_best_on_average_of_those_that_are_never_worse() -> None:
    curves = [
        curve("fusion", [39.9, 48.0, 50.0]),
        curve("nested_fusion", [40.5, 43.0, 44.0]),
        curve("fusion_kept", [40.0, 44.0, 45.0]),
    ]
    assert counts.recommended(curves) == "fusion_kept"
    # One backbone with which the first member is worse is enough.
    other = {"single": 41.0, "backbone": "b1"}
    curves += [
        curve("fusion", [42.0, 48.0, 50.0], **other),
        curve("nested_fusion", [41.0, 44.0, 45.0], **other),
        curve("fusion_kept", [40.9, 46.0, 47.0], **other),
    ]
    assert counts.recommended(curves) == "nested_fusion"
    assert counts.recommended(curves[:1]) is None


def test_the_table() -> None:
    curves = [
        curve("fusion", [40.0, 44.0, 45.0]),
        curve("fusion", [42.0, 44.0, 46.0], single=41.0, backbone="b1"),
    ]
    assert counts.header(3) == ["way", "m = 1", "m = 2", "m = 3", "mean over m"]
    # Of 40 and 42 the standard deviation is the root of 2.
    assert counts.rows(curves) == [
        ["single network", "40.50 ± 0.71", "", "", ""],
        ["fusion", "41.00 ± 1.41", "44.00 ± 0.00", "45.50 ± 0.71", "43.50 ± 0.71"],
    ]
    assert counts.rows(curves[:1])[1] == ["fusion", "40.00", "44.00", "45.00", "43.00"]


@pytest.mark.parametrize(
    ("members", "expected"),
    [(1, [1]), (4, [1, 2, 3, 4]), (8, [1, 2, 3, 4, 5, 7, 8]), (10, [1, 2, 3, 4, 6, 8, 10])],
)
def test_the_numbers_of_members_in_the_table(members, expected) -> None:
    assert counts.shown(members) == expected


def test_weights_that_lean_to_the_whole() -> None:
    assert counts.WAYS["nested_fusion_m4"].prefix_weights(3) == [1, 16, 81]
    assert counts.WAYS["nested_fusion"].prefix_weights(3) is None
