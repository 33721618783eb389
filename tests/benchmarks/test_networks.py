"""The page of networks has every network, and what the program measures today."""

from __future__ import annotations

import re

import pytest

from .conftest import ROOT, load

networks = load("networks")
PAGE = (ROOT / "docs" / "networks.md").read_text("utf-8")
TABLE = PAGE.split(networks.BEGIN)[1].split(networks.END)[0]
ROWS = {name: cells for name, *cells in re.findall(r"^\| (\w+) \|" + r" (.+?) \|" * 6, TABLE, re.M)}


def test_every_network_is_in_the_table() -> None:
    import zoo

    assert [*ROWS] == ["network", *zoo.NETWORKS]
    assert ROWS["network"] == [*networks.POLICIES]


@pytest.mark.parametrize(
    ("name", "policy"), [("dense_guide", "fusion"), ("two_classes", "all_frozen")]
)
def test_the_table_has_what_the_program_measures(name: str, policy: str, tmp_path) -> None:
    """Bytes and ratio do not depend on the versions of packages but that of LCE."""
    column = ROWS["network"].index(policy)
    found = networks.outcomes(name, [policy], tmp_path)[policy]
    assert networks.cell(found, {}) == ROWS[name][column]


def test_a_refusal_has_its_reason() -> None:
    """Reasons that differ in the number of the member only are the same."""
    found = {
        name: {"fusion": networks.Outcome(refused=f"member_{number}_x: no")}
        for number, name in enumerate(("one", "two"))
    }
    lines = networks.table(found).splitlines()
    assert lines[2:4] == ["| one | refused (1) |", "| two | refused (1) |"]
    assert lines[-1] == "1. x: no"
