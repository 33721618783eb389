"""What scripts put into a page, and the part of it between two lines."""

from __future__ import annotations

import datetime

import pytest

from larq_ensemble.errors import EnsembleError

from .conftest import load

page = load("page")


def test_mean_and_spread() -> None:
    assert page.mean_and_spread([40.0]) == "40.00"
    assert page.mean_and_spread([40.0, 42.0]) == "41.00 ± 1.41"  # the root of 2
    assert page.mean_and_spread([40.0, 42.0], 1) == "41.0 ± 1.4"


def test_the_command_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/x.py", "my run", "--out", "a"])
    today = datetime.date.today()
    assert page.made_by("benchmarks/x.py") in {
        f"Made by `python benchmarks/x.py 'my run' --out a` on {day}."
        for day in (today, datetime.date.today())
    }


def test_a_part_of_a_page(tmp_path) -> None:
    path = tmp_path / "page.md"
    path.write_text("before\n<!-- a -->\nold\n<!-- b -->\nafter\n")
    page.write_between(path, "<!-- a -->", "<!-- b -->", "new")
    assert path.read_text() == "before\n<!-- a -->\n\nnew\n\n<!-- b -->\nafter\n"


@pytest.mark.parametrize(
    "text", ["", "<!-- b -->\n<!-- a -->\n", "<!-- a -->\n" * 2 + "<!-- b -->"]
)
def test_a_page_without_its_two_lines_stays_as_it_is(tmp_path, text) -> None:
    path = tmp_path / "page.md"
    path.write_text(text)
    with pytest.raises(EnsembleError, match=r"`write` .*page\.md' needs these two lines, once"):
        page.write_between(path, "<!-- a -->", "<!-- b -->", "new")
    assert path.read_text() == text
