"""Keras-style docstrings as Griffe sections, on a module written here."""

from __future__ import annotations

from pathlib import Path

import pytest

griffe = pytest.importorskip("griffe", reason="the documentation's packages are not installed")

TOOLS = Path(__file__).parents[2] / "tools"

SOURCE = r'''
"""A module."""


def scale(values: list[float], factor: float = 2.0, *more: int) -> list[float]:
    r"""Multiplies: \\(y = f x\\).

    ```python
    # Arguments
    scale([1])
    ```

    # Arguments
        values: what to multiply,
            of any length: also 0.
        factor, more: the factors.

    # Returns
        One product a value: a list.

    # Raises
        ValueError: if there is no factor.

    # References
        - [Someone](https://example.org) 2022.
    """


class Point:
    """A point.

    # Arguments
        x: abscissa, in metres.

    # Attributes
        norm: distance from the origin.

    # Arguments
        without a name
    """

    x: int = 0

    @property
    def norm(self) -> float:
        """Distance."""
'''


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("package")
    (folder / "measures.py").write_text(SOURCE, encoding="utf-8")
    extensions = griffe.load_extensions(str(TOOLS / "keras_docstrings.py"))
    return griffe.GriffeLoader(search_paths=[folder], extensions=extensions).load("measures")


def test_sections_of_a_function(module):
    text, parameters, returns, raises, references = module["scale"].docstring.parsed
    assert text.value.startswith(r"Multiplies: \(y = f x\).")
    assert "# Arguments\nscale([1])" in text.value  # a comment in code is no heading
    assert [(item.name, str(item.annotation), item.default) for item in parameters.value] == [
        ("values", "list[float]", None),
        ("factor", "float", "2.0"),
        ("more", "int", "()"),
    ]
    assert parameters.value[0].description == "what to multiply,\nof any length: also 0."
    assert parameters.value[1].description == parameters.value[2].description == "the factors."
    assert returns.value[0].description == "One product a value: a list."
    assert str(returns.value[0].annotation) == "list[float]"
    assert [(item.annotation, item.description) for item in raises.value] == [
        ("ValueError", "if there is no factor.")
    ]
    assert references.kind is griffe.DocstringSectionKind.text
    assert references.value == "**References**\n\n- [Someone](https://example.org) 2022."


def test_sections_of_a_class(module):
    text, arguments, attributes, unreadable = module["Point"].docstring.parsed
    assert text.value == "A point."
    (x,) = arguments.value
    assert (x.name, str(x.annotation), x.default, x.description) == (
        "x",
        "int",
        "0",
        "abscissa, in metres.",
    )
    (norm,) = attributes.value
    assert (norm.name, str(norm.annotation)) == ("norm", "float")
    assert unreadable.value == "**Arguments**\n\nwithout a name"


def test_every_docstring_of_the_package_is_read():
    """A heading that stays in a text is a section that this extension did not find."""
    extensions = griffe.load_extensions(str(TOOLS / "keras_docstrings.py"))
    loader = griffe.GriffeLoader(search_paths=[TOOLS.parent], extensions=extensions)
    package = loader.load("larq_ensemble")
    names = {"parameters": 0, "returns": 0, "raises": 0}
    for item in _objects(package):
        for section in item.docstring.parsed if item.docstring else ():
            if section.kind.value in names:
                names[section.kind.value] += 1
            elif section.kind is griffe.DocstringSectionKind.text:
                assert "\n# " not in _without_code(section.value), item.path
                assert not section.value.startswith(("**Arguments", "**Raises")), item.path
    assert min(names.values()) > 20


def _objects(item):
    yield item
    for member in item.members.values():
        if isinstance(member, griffe.Object):
            yield from _objects(member)


def _without_code(text):
    return "".join(text.split("```")[::2])
