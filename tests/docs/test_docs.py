"""Every code block of the README and the documentation is run, page by page, as a reader would."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases import fresh_database
from tests.docs.blocks import blocks
from tests.docs.book import Book
from tests.support import ROOT, SERVER_VARIABLES

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_BLOCKS = [page for page in PAGES if blocks(page)]


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    book = Book(tmp_path)
    try:
        yield book
    finally:
        book.stop()


@pytest.mark.e2e
@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda p: str(p.relative_to(ROOT)))
def test_page(page: Path, book: Book, tmp_path: Path) -> None:
    """The blocks of a page run in their order, and do what the page says."""
    if "mysql://taskuser" not in page.read_text(encoding="utf-8"):
        run(book, page)
        return
    for server in ("mysql", "redis"):
        if not os.environ.get(SERVER_VARIABLES[server]):
            pytest.skip(f"{SERVER_VARIABLES[server]} is not set")
    with fresh_database("mysql", tmp_path) as url:
        book.servers = {"mysql": url, "redis": os.environ[SERVER_VARIABLES["redis"]]}
        run(book, page)
        book.stop()


def run(book: Book, page: Path) -> None:
    for block in blocks(page):
        try:
            book.run(block)
        except Exception:
            print(book.output())
            raise


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links(page: Path) -> None:
    """A link to a file leads to one."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
