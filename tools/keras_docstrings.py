"""Griffe extension: the sections of Keras-style docstrings become Griffe's own.

Larq and Keras write a section as a heading, `# Arguments`, and an indented block. Griffe knows
other styles only, so `mkdocstrings` would show these sections as text. With this extension
arguments, attributes, errors and returned values render as tables, and everything else as text
with a title. mkdocs.yml names it under `extensions`.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

import griffe

_HEADING = re.compile(r"^# (?P<title>[A-Z][\w ]*)$")
_ITEM = re.compile(r"^(?P<name>[*\w][\w*., `]*?): +(?P<description>\S.*)$", re.DOTALL)


class KerasDocstrings(griffe.Extension):
    """Parses the docstrings of a package once all of it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Sets `Docstring.parsed` of each object of the package `pkg`."""
        for item in _objects(pkg):
            if item.docstring is not None:
                item.docstring.parsed = parse(item.docstring)


def parse(docstring: griffe.Docstring) -> list[griffe.DocstringSection]:
    r"""Splits a Keras-style docstring into Griffe's sections.

    Formulas keep their delimiters but lose Keras's second backslash: `\\(x\\)` becomes `\(x\)`.

    # Arguments
        docstring: of any object. Types and defaults come from its signature.

    # Returns
        The sections in the order of the docstring. `# Arguments`, `# Attributes`, `# Weights`,
        `# Raises` and `# Returns` become tables if each of their items can be read, others text.
    """
    parts = _split(_unescape(docstring.value))
    return [_section(title, text, docstring.parent) for title, text in parts if text]


def _objects(item: griffe.Object) -> Iterator[griffe.Object]:
    yield item
    for member in item.members.values():
        if isinstance(member, griffe.Object):  # An alias shows the docstring of its target.
            yield from _objects(member)


def _unescape(text: str) -> str:
    text = re.sub(r"\\\\([()\[\]])", r"\\\1", text)
    return re.sub(r"\\\\\\(?=\s)", r"\\\\", text)


def _split(text: str) -> Iterator[tuple[str | None, str]]:
    """Titles, `None` before the first one, and their texts."""
    title: str | None = None
    lines: list[str] = []
    fenced = False
    for line in text.splitlines():
        fenced ^= line.lstrip().startswith("```")
        heading = None if fenced else _HEADING.match(line)
        if heading:
            yield title, _block(lines)
            title, lines = heading["title"], []
        elif title and line and not line.startswith(" ") and not fenced:
            # The indented block ends, as text that follows a section does.
            yield title, _block(lines)
            title, lines = None, [line]
        else:
            lines.append(line)
    yield title, _block(lines)


def _block(lines: list[str]) -> str:
    return textwrap.dedent("\n".join(lines)).strip("\n")


def _section(title: str | None, text: str, owner: griffe.Object | None) -> griffe.DocstringSection:
    if title is None:
        return griffe.DocstringSectionText(text)
    if title == "Returns":
        returned = griffe.DocstringReturn("", description=text, annotation=_returned(owner))
        return griffe.DocstringSectionReturns([returned])
    items = _items(text)
    if items and title == "Arguments":
        return griffe.DocstringSectionParameters([_parameter(*item, owner) for item in items])
    if items and title in ("Attributes", "Weights"):
        return griffe.DocstringSectionAttributes(
            [_attribute(*item, owner) for item in items], title=title
        )
    if items and title == "Raises":
        return griffe.DocstringSectionRaises(
            [griffe.DocstringRaise(annotation=name, description=text) for name, text in items]
        )
    return griffe.DocstringSectionText(f"**{title}**\n\n{text}")


def _items(block: str) -> list[tuple[str, str]]:
    """(name, description) for each line that is not indented, or nothing if one has no name."""
    items = []
    for item in re.split(r"\n(?=\S)", block):
        match = _ITEM.match(item.strip())
        if match is None:
            return []
        first, *rest = match["description"].split("\n", 1)
        text = "\n".join([first, *map(textwrap.dedent, rest)])
        items += [(name, text) for name in match["name"].split(", ")]
    return items


def _parameter(name: str, description: str, owner: griffe.Object | None) -> Any:
    declared = _declaration(name, owner)
    default = getattr(declared, "default", None) or getattr(declared, "value", None)
    return griffe.DocstringParameter(
        name,
        description=description,
        annotation=getattr(declared, "annotation", None),
        value=default,
    )


def _attribute(name: str, description: str, owner: griffe.Object | None) -> Any:
    annotation = getattr(_declaration(name, owner), "annotation", None)
    return griffe.DocstringAttribute(name, description=description, annotation=annotation)


def _declaration(name: str, owner: griffe.Object | None) -> Any:
    """The parameter of that name of a function or class, or the field of a data class."""
    parameters = getattr(owner, "parameters", None)
    if parameters is not None and name in parameters:
        return parameters[name]
    return owner.members.get(name) if owner is not None else None


def _returned(owner: griffe.Object | None) -> Any:
    return getattr(owner, "returns", None) or getattr(owner, "annotation", None)
