"""The Lua scripts: files with `--- @include "name"` lines, put together once and addressed by their hash."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "lua"
_INCLUDE = re.compile(r'^--- @include "([a-z_]+)"\n', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One script as the server gets it. `sha` is what EVALSHA takes: old and new processes may run together."""

    name: str
    source: bytes
    sha: str


@cache
def load(name: str, folder: Path = FOLDER) -> Script:
    """The script `<name>.lua` with its includes in place.

    Raises FileNotFoundError for a missing include; each include is taken once, in the order it is named.
    """
    taken: set[str] = set()

    def include(match: re.Match[str]) -> str:
        part = match[1]
        if part in taken:
            return ""
        taken.add(part)
        return _INCLUDE.sub(include, (folder / "includes" / f"{part}.lua").read_text(encoding="utf-8"))

    source = _INCLUDE.sub(include, (folder / f"{name}.lua").read_text(encoding="utf-8")).encode()
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest())
