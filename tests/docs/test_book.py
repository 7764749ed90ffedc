"""What runs the pages notices when one lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import blocks
from tests.docs.book import Book


def page(folder: Path, text: str) -> Path:
    path = folder / "page.md"
    path.write_text(text, encoding="utf-8")
    return path


def run(folder: Path, text: str) -> Book:
    book = Book(folder)
    for block in blocks(page(folder, text)):
        book.run(block)
    return book


def test_blocks_in_their_order(tmp_path: Path) -> None:
    """Language, line and what is told in a comment; within a list too."""
    found = blocks(
        page(
            tmp_path,
            "# A\n\n```sh\nls\n```\n\n1. b\n\n   <!-- docs: answers=CONFLICT -->\n   ```graphql\n   { me }\n   ```\n",
        )
    )
    assert [(b.language, b.line, b.text) for b in found] == [("sh", 3, "ls\n"), ("graphql", 10, "{ me }\n")]
    assert found[1].told == {"answers": "CONFLICT"}


@pytest.mark.parametrize(
    "text",
    ["```sh\nls\n", "<!-- docs: fails=1 -->\nno block\n"],
    ids=["a block that does not end", "a comment without a block"],
)
def test_a_page_that_is_malformed(tmp_path: Path, text: str) -> None:
    """Is an error, not a block fewer."""
    with pytest.raises(AssertionError):
        blocks(page(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        "```sh\nfalse\n```\n",
        "```sh\nfalse | true\n```\n",
        "<!-- docs: fails=3 -->\n```sh\ntrue\n```\n",
        "<!-- docs: file=shop.py -->\n```python\nimport no_such_module\n```\n",
        "```json\n{'a': 1}\n```\n",
        "```ruby\nputs 1\n```\n",
        "<!-- docs: skip=it is long -->\n```sh\ntrue\n```\n",
    ],
    ids=["status", "pipe", "another status", "import", "json", "language", "skipped"],
)
def test_a_block_that_lies(tmp_path: Path, text: str) -> None:
    """Fails its page."""
    with pytest.raises((AssertionError, ValueError)):
        run(tmp_path, text)


def test_what_a_page_exports_stays(tmp_path: Path) -> None:
    """For its later blocks, as in a shell."""
    book = run(
        tmp_path, '```sh\nexport TASKMILL_QUEUES=media\n```\n\n```sh\ntest "$TASKMILL_QUEUES" = media\n```\n'
    )
    assert book.environment["TASKMILL_QUEUES"] == "media"
