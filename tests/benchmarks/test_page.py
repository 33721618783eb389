"""Tables in Markdown, and the part of a page between two lines."""

from __future__ import annotations

from .conftest import load

page = load("page")


def test_a_table() -> None:
    text = page.as_markdown(["a", "b"], [["1", "2"]])
    assert text == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_mean_and_spread() -> None:
    assert page.mean_and_spread([40.0]) == "40.00"
    assert page.mean_and_spread([40.0, 42.0]) == "41.00 ± 1.41"  # the root of 2


def test_a_part_of_a_page(tmp_path) -> None:
    path = tmp_path / "page.md"
    path.write_text("before\n<!-- a -->\nold\n<!-- b -->\nafter\n")
    page.write_between(path, "<!-- a -->", "<!-- b -->", "new")
    assert path.read_text() == "before\n<!-- a -->\n\nnew\n\n<!-- b -->\nafter\n"
