"""Links and tables that the documentation site adds to the pages."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import larq_ensemble
from larq_ensemble.cli import COMMANDS

pytest.importorskip("mkdocs", reason="the documentation's packages are not installed")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "tools" / "site_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("origin", "page", "link", "expected"),
    [
        # Between pages, from the top of the repository and back to it.
        ("docs/a.md", "a.md", "[b](guides/b.md#c)", "[b](guides/b.md#c)"),
        ("CONTRIBUTING.md", "contributing.md", "[a](docs/index.md)", "[a](index.md)"),
        ("docs/guides/a.md", "guides/a.md", "[c](../../CHANGELOG.md#x)", "[c](../changelog.md#x)"),
        # Out of the pages.
        ("docs/a.md", "a.md", "[r](../README.md)", "[r](https://host/blob/main/README.md)"),
        # Nowhere: left for MkDocs to report.
        ("docs/a.md", "a.md", "[n](../nowhere.md)", "[n](../nowhere.md)"),
        ("docs/a.md", "a.md", "[w](https://example.org)", "[w](https://example.org)"),
    ],
)  # fmt: skip
def test_links(pages, origin, page, link, expected) -> None:
    def relinked(repository):
        return pages._LINK.sub(lambda match: pages._relink(match, origin, page, repository), link)

    assert relinked("https://host/") == expected
    if "README" in link:
        assert relinked(None) == "r"


def test_every_public_name_is_in_the_table(pages) -> None:
    table = pages._export_table("larq_ensemble")
    rows = dict(re.findall(r"^\| \[`(\w+)`\]\[([\w.]+)\]", table, re.MULTILINE))
    assert set(rows) == set(larq_ensemble.__all__) - {"__version__"}
    assert all(path.endswith(f".{name}") for name, path in rows.items())
    assert rows["account"] == "larq_ensemble.network.storage.account"


def test_every_command_is_there_with_its_help(pages) -> None:
    text = pages._commands()
    assert re.findall(r"^## (\S+)$", text, re.MULTILINE) == list(COMMANDS)
    assert text.count("-h, --help") == len(COMMANDS)
