"""MkDocs hook: pages and links that the site has besides docs/.

- CONTRIBUTING.md and CHANGELOG.md, which stand at the top of the repository, become pages.
- A link to a file outside docs/ leads to the repository (`repo_url` in mkdocs.yml), or, as long as
  that is unknown, becomes plain text.
- `<!-- commands -->` becomes the `--help` of each command. (mkdocs-click runs examples together and
  prints `Sentinel.UNSET` for options without a default.)
- `<!-- exports: PACKAGE -->` becomes a table of the public names of a package. Packages import them
  when they are first used, which mkdocstrings, reading the source, does not see.
"""

from __future__ import annotations

import importlib
import posixpath
import re
from functools import cache
from pathlib import Path

import click
import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from larq_ensemble.cli import cli

ROOT = Path(__file__).parents[1]

#: Files beside docs/ and the pages that they become.
_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]\n]+)\]\((?P<target>[^)\s:#]+)(?P<anchor>#[^)\s]*)?\)")
_EXPORTS = re.compile(r"<!-- exports: ([\w.]+) -->")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that stand outside docs/."""
    for source, page in _PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills in tables of exports and repairs links that leave docs/."""
    source = page.file.src_uri
    origin = next((path for path, name in _PAGES.items() if name == source), f"docs/{source}")
    markdown = _LINK.sub(lambda link: _relink(link, origin, source, config.repo_url), markdown)
    markdown = _EXPORTS.sub(lambda match: _export_table(match[1]), markdown)
    return markdown.replace("<!-- commands -->", _commands() if "<!-- commands" in markdown else "")


def _relink(link: re.Match[str], origin: str, page: str, repository: str | None) -> str:
    """The link as it has to stand on `page`, whose text is that of the file `origin`."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link["target"]))
    anchor = link["anchor"] or ""
    if target in _PAGES:
        target = f"docs/{_PAGES[target]}"
    if target.startswith("docs/"):
        path = posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(page) or ".")
        return f"[{link['text']}]({path}{anchor})"
    if not (ROOT / target).exists():
        return link[0]  # MkDocs reports it.
    if repository:
        return f"[{link['text']}]({repository.rstrip('/')}/blob/main/{target}{anchor})"
    return link["text"]


def _commands() -> str:
    group = click.Context(cli, info_name="larq-ensemble", **cli.context_settings)
    parts = []
    for name in cli.list_commands(group):
        command = cli.get_command(group, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=group)
        parts.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```")
    return "\n\n".join(parts)


def _export_table(package: str) -> str:
    rows = ["| name | |", "|---|---|"]
    for name in importlib.import_module(package).__all__:
        item = _definition(package, name)
        if item is None:  # A constant without a page, as `__version__`.
            continue
        summary = item.docstring.value.split("\n\n")[0] if item.docstring else ""
        rows.append(f"| [`{name}`][{item.path}] | {' '.join(summary.split())} |")
    return "\n".join(rows)


def _definition(package: str, name: str) -> griffe.Object | None:
    """Where a public name is defined: the shallowest definition in the package."""
    found = [
        item
        for module in _modules(_library())
        if isinstance(item := module.members.get(name), griffe.Class | griffe.Function)
        and item.path.startswith(f"{package}.")
        and "commands" not in item.path.split(".")
    ]
    return min(found, key=lambda item: item.path.count("."), default=None)


@cache
def _library() -> griffe.Module:
    package = griffe.GriffeLoader(search_paths=[ROOT]).load("larq_ensemble")
    assert isinstance(package, griffe.Module)
    return package


def _modules(module: griffe.Module) -> list[griffe.Module]:
    # Not `module.modules`, which has aliases too: a module that imports its package is a cycle.
    children = [child for child in module.members.values() if isinstance(child, griffe.Module)]
    return [module, *(item for child in children for item in _modules(child))]
