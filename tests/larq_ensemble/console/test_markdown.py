"""Tables in Markdown."""

from __future__ import annotations

from larq_ensemble.console.markdown import markdown_table


def test_a_table() -> None:
    text = markdown_table(["a", "b"], [["1", 2]])
    assert text == "| a | b |\n| --- | --- |\n| 1 | 2 |"
