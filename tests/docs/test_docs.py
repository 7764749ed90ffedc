"""Every code block of the README and the documentation is run, page by page, as a reader would."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases import fresh_database
from tests.docs.blocks import Block, blocks
from tests.docs.book import Book
from tests.support import ROOT, SERVER_VARIABLES

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_BLOCKS = [page for page in PAGES if blocks(page)]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Book]:
    """An installation for all pages, until they start one themselves; it starts when the first of them needs it."""
    book = Book(tmp_path_factory.mktemp("library"))
    try:
        yield book
    finally:
        book.stop()


@pytest.fixture
def book(library: Book, tmp_path: Path) -> Iterator[Book]:
    book = Book(tmp_path, library)
    try:
        yield book
    finally:
        book.stop()


@pytest.mark.e2e
@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda p: str(p.relative_to(ROOT)))
def test_page(page: Path, book: Book, tmp_path: Path) -> None:
    """The blocks of a page run in their order, and do what the page says; from the first that names MySQL on, where there is one."""
    embedded, distributed = halves(page)
    run(book, embedded)
    if not distributed:
        return
    for server in ("mysql", "redis"):
        if not os.environ.get(SERVER_VARIABLES[server]):
            pytest.skip(f"{SERVER_VARIABLES[server]} is not set")
    with fresh_database("mysql", tmp_path) as url:
        book.servers = {"mysql": url, "redis": os.environ[SERVER_VARIABLES["redis"]]}
        run(book, distributed)
        book.stop()


def halves(page: Path) -> tuple[list[Block], list[Block]]:
    found = blocks(page)
    first = next((n for n, block in enumerate(found) if "mysql://taskuser" in block.text), len(found))
    return found[:first], found[first:]


def run(book: Book, some: list[Block]) -> None:
    for block in some:
        try:
            book.run(block)
        except Exception:
            print(book.output())
            raise


LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)]*))?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links(page: Path) -> None:
    """A link to a file leads to one, and what stands behind # is a heading there."""
    for target, anchor in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        there = page.parent / target if target else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name}: {target}#{anchor}"


def test_every_page_is_in_the_index() -> None:
    """docs/README.md leads to each page, or to its folder."""
    index = ROOT / "docs/README.md"
    named = {(index.parent / target).resolve() for target, _ in LINK.findall(prose(index)) if target}
    lost = [p for p in PAGES[1:] if p != index and not named & {p, p.parent}]
    assert not lost


def prose(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ +(.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
