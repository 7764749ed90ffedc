"""What a command shows: a table on a terminal, aligned text without colours elsewhere, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from taskmill.cli.options import Terminal
from taskmill.errors import TaskmillError
from taskmill.runtime.logs import escape

T = TypeVar("T")
AT_ONCE: Final = 100
"""Rows that are laid out together."""
NOTHING: Final = "-"
"""An empty cell: each line has as many words as there are columns, but for a last one with a sentence."""
FLEXIBLE: Final = 12
"""Columns of the screen that a cell which may be cut keeps."""
STYLES: Final = {
    "COMPLETED": "green", "FAILED": "red", "CANCELLED": "yellow", "PROCESSING": "cyan", "QUEUED": "blue",
    "error": "red", "warning": "yellow", "revoked": "yellow", "disabled": "yellow", "paused": "yellow",
}  # fmt: skip


class Column(NamedTuple, Generic[T]):
    """`flexible`: on a terminal it may be cut."""

    name: str
    value: Callable[[T], object]
    flexible: bool = False


def put(text: str, *, end: str = "\n", flush: bool = False) -> None:
    """A line of the result. TaskmillError when it cannot be written; BrokenPipeError when nobody reads."""
    try:
        print(text, end=end, flush=flush)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise TaskmillError(f"standard output: {(error.strerror or str(error)).lower()}") from None


def word(value: object) -> str:
    """A value as a cell has it: nothing in it breaks a line or moves the cursor."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return escape(",".join(map(str, value))) or NOTHING
    return escape(str(value))


def as_json(value: object, *, indent: int | None = None) -> str:
    """With the names of the API. ASCII where the output has no other letters."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    return json.dumps(plain(value), ensure_ascii=not encoding.startswith("utf"), indent=indent)


def plain(value: object) -> Any:
    """A value of the client as dicts and lists, with the names of the API."""
    return msgspec.to_builtins(value)


def lines(text: str) -> None:
    """A text of several lines, indented."""
    for line in text.splitlines():
        put(f"  {escape(line)}")


class Listing:
    """Many things, each shown when it comes: texts, a line each; or one JSON array, an item a line."""

    def __init__(self, *, json: bool) -> None:
        self._json = json
        self.count = 0

    def add(self, item: object) -> None:
        if self._json:
            put((",\n" if self.count else "[\n") + as_json(item), end="")
        else:
            put(str(item))
        self.count += 1

    def end(self) -> None:
        if self._json:
            put("\n]" if self.count else "[]")


async def rows(items: AsyncIterable[T], columns: Sequence[Column[T]], *, json: bool) -> None:
    """All of them as they come: a table in pages, or a JSON array."""
    page: list[T] = []
    pages = 0
    listing = Listing(json=json)
    async for item in items:
        if json:
            listing.add(item)
            continue
        page.append(item)
        if len(page) == AT_ONCE:
            table(page, columns, header=pages == 0)
            page, pages = [], pages + 1
    if json:
        listing.end()
    elif page or not pages:
        table(page, columns, header=pages == 0)


def table(items: Sequence[T], columns: Sequence[Column[T]], *, header: bool = True) -> None:
    """Of one page of rows."""
    cells = [[word(column.value(item)) for column in columns] for item in items]
    console = Terminal()
    if not console.is_terminal:
        _text([[c.name for c in columns], *cells] if header else cells)
        return
    if not cells:
        console.print(Text("nothing", style="dim"))
        return
    widths = [max(map(len, column)) for column in zip([c.name for c in columns], *cells, strict=True)]
    needed = sum(min(w, FLEXIBLE) if c.flexible else w for w, c in zip(widths, columns, strict=True))
    if needed + 2 * len(columns) > console.width:
        for row in cells:
            _card(console, list(zip([c.name for c in columns], row, strict=True)))
            console.print()
        return
    grid = Table(box=None, pad_edge=False, show_header=header, header_style="bold", padding=(0, 2, 0, 0))
    for column, width in zip(columns, widths, strict=True):
        how: dict[str, Any] = {} if column.flexible else {"min_width": width}
        grid.add_column(column.name, no_wrap=True, overflow="ellipsis", **how)
    for row in cells:
        grid.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    console.print(grid)


def _text(lines: Sequence[Sequence[str]]) -> None:
    """Aligned by spaces; the last column as long as it is."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        put("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """One thing, a line for each of its properties; what it does not have is left out."""
    shown = [(name, word(value)) for name, value in pairs if value is not None and value != []]
    console = Terminal()
    if console.is_terminal:
        _card(console, shown)
    else:
        width = max(len(name) for name, _ in shown)
        for name, value in shown:
            put(f"{name:<{width}}  {value}")


def _card(console: Console, pairs: Sequence[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in pairs)
    narrow = console.width < 2 * width
    for name, value in pairs:
        label = f"{name}: " if narrow else f"{name:<{width}}  "
        console.print(Text.assemble((label, "bold"), (value, STYLES.get(value, ""))), soft_wrap=True)
