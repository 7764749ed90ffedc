"""The code blocks of a page, and what its author tells this test in comments that no reader sees.

<!-- docs: file=shop.py -->      the block is a file, and is imported when it is Python
<!-- docs: serve=shop:app -->    from here on `taskmill up --app shop:app` runs (again)
<!-- docs: answers=CONFLICT -->  a document that is refused, with this code
<!-- docs: fails=3 -->           a command that ends with this status
<!-- docs: continues -->         Python that goes on after the Python block before it
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

FENCE = re.compile(r"^(?P<indent> *)(?P<marks>```+|~~~+)(?P<language>[A-Za-z0-9_+-]*)[^\n]*$")
WORDS = {"file", "serve", "answers", "fails", "continues"}
TOLD = re.compile(r"^ *<!-- docs: (?P<what>.+?) -->\s*$")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    told: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line} ({self.language or 'no language'})"


def blocks(page: Path) -> list[Block]:
    """In the order of the page. AssertionError: a block that does not end."""
    found: list[Block] = []
    told: dict[str, str] = {}
    lines = page.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        comment, fence = TOLD.match(lines[at]), FENCE.match(lines[at])
        if comment:
            name, _, value = comment["what"].partition("=")
            assert name.strip() in WORDS, f"{page.name}:{at + 1}: no such word: {name}"
            told[name.strip()] = value.strip()
        elif fence:
            end = next(
                (i for i in range(at + 1, len(lines)) if lines[i].strip() == fence["marks"]), len(lines)
            )
            assert end < len(lines), f"{page.name}:{at + 1}: a block that does not end"
            body = textwrap.dedent("\n".join(lines[at + 1 : end]))
            found.append(Block(page, at + 1, fence["language"], body + "\n", told))
            told, at = {}, end
        elif lines[at].strip():
            assert not told, f"{page.name}:{at + 1}: a comment for a block, and no block behind it"
        at += 1
    return found
