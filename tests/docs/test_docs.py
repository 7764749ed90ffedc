"""Every code block of the README and the documentation is run, page by page, as a reader would."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.databases import fresh_database
from tests.docs.blocks import Block, blocks
from tests.docs.book import Book
from tests.support import ROOT, SERVER_VARIABLES

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_BLOCKS = [page for page in PAGES if blocks(page)]
PROJECT = [ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Book]:
    """An installation for all pages, until they start one themselves; it starts when the first of them needs it."""
    book = Book(tmp_path_factory.mktemp("library"))
    try:
        yield book
    finally:
        book.stop()


@pytest.fixture(scope="module")
def readings(
    request: pytest.FixtureRequest, library: Book, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Path, Future[None]]]:
    """The pages that are asked for, two at a time: most of what a page takes is waiting for processes."""
    tests = [item for item in request.session.items if getattr(item, "originalname", "") == "test_page"]
    asked: list[Path] = [vars(item)["callspec"].params["page"] for item in tests]
    asked.sort(key=lambda page: -len(blocks(page)))
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {page: pool.submit(read, page, library, tmp_path_factory.mktemp("page")) for page in asked}
        pool.shutdown(cancel_futures=True)


@pytest.mark.e2e
@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda p: str(p.relative_to(ROOT)))
def test_page(page: Path, readings: dict[Path, Future[None]]) -> None:
    """The blocks of a page run in their order, and do what the page says; from the first that names MySQL on, where there is one."""
    readings[page].result()


def read(page: Path, library: Book, folder: Path) -> None:
    book = Book(folder, library)
    embedded, distributed = halves(page)
    try:
        for block in embedded:
            book.run(block)
        if not distributed:
            return
        for server in ("mysql", "redis"):
            if not os.environ.get(SERVER_VARIABLES[server]):
                pytest.skip(f"{SERVER_VARIABLES[server]} is not set")
        with fresh_database("mysql", folder) as url:
            book.servers = {"mysql": url, "redis": os.environ[SERVER_VARIABLES["redis"]]}
            for block in distributed:
                book.run(block)
            book.stop()
    except Exception as error:
        error.add_note(book.output())
        raise
    finally:
        book.stop()


def halves(page: Path) -> tuple[list[Block], list[Block]]:
    found = blocks(page)
    run = [block.language != "text" and "mysql://taskuser" in block.text for block in found]
    first = run.index(True) if True in run else len(found)
    return found[:first], found[first:]


LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)]*))?\)")


@pytest.mark.parametrize("page", [*PAGES, *PROJECT], ids=lambda p: str(p.relative_to(ROOT)))
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
