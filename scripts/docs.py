"""What mkdocs calls while it builds the site: the pages are written for GitHub, and there a link leads through the repository.

The navigation is made of docs/README.md, heading by heading. What a page links to outside of docs/ becomes a page of the
site: Markdown as it is, another file as a block of code, a folder as a list.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
INDEX = DOCS / "README.md"
PROJECT = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
FENCE_OR_LINK = re.compile(f"{FENCE.pattern}|{LINK.pattern}", re.MULTILINE | re.DOTALL)
OUTSIDE = re.compile(r"[a-z]+:|//")
SOURCES: dict[str, Path] = {}
"""Address in the site → the file or folder that it was made of, for what is not in docs/."""


def on_config(config: Any) -> Any:
    """The sections of the index, then the pages of the project."""
    config.nav = [
        {"Overview": "README.md"},
        *sections(),
        {"The project": [address(ROOT / name) for name in PROJECT]},
    ]
    return config


def sections() -> Iterator[dict[str, list[dict[str, Any]]]]:
    _, *parts = re.split(r"^## +", INDEX.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for part in parts:
        heading, _, text = part.partition("\n")
        entries: list[dict[str, Any]] = []
        for link in LINK.finditer(text):
            target = (DOCS / link["target"]).resolve()
            name = link["text"][:1].upper() + link["text"][1:]
            if target.is_dir():
                entries.append(
                    {name: [address(target), *(address(page) for page in sorted(target.glob("*.md")))]}
                )
            elif target.suffix == ".md":
                entries.append({name: address(target)})
        yield {heading.partition(": ")[2].capitalize() or heading: entries}


def on_files(files: Any, config: Any) -> Any:
    """Adds what is linked to and is not in docs/, and what that links to, and so on."""
    waiting = [*DOCS.rglob("*.md"), *(ROOT / name for name in PROJECT)]
    known = set(waiting)
    while waiting:
        path = waiting.pop()
        if not is_inside(path):
            SOURCES[address(path)] = path
            files.append(File.generated(config, address(path), content=content(path)))
        new = {target for target in targets(path) if target not in known}
        known |= new
        waiting += sorted(new)
    return files


def targets(path: Path) -> Iterator[Path]:
    """What a page leads to within the repository."""
    if path.is_dir():
        yield from shown(path)
    elif path.suffix == ".md":
        for link in LINK.finditer(FENCE.sub("", path.read_text(encoding="utf-8"))):
            if target := destination(path.parent, link["target"]):
                yield target


def is_inside(path: Path) -> bool:
    """Whether mkdocs finds it by itself."""
    return path.is_file() and path.is_relative_to(DOCS)


def destination(folder: Path, target: str) -> Path | None:
    """The file or folder of the repository that a link leads to; None for an address, or when nothing is there."""
    if OUTSIDE.match(target):
        return None
    there = Path(os.path.normpath(folder / target))
    return there if there.exists() and there.is_relative_to(ROOT) else None


def address(path: Path) -> str:
    """Where a file or folder of the repository is in the site."""
    if is_inside(path):
        return path.relative_to(DOCS).as_posix()
    place = path.relative_to(DOCS) if path.is_relative_to(DOCS) else Path("project") / path.relative_to(ROOT)
    if path.is_dir():
        return (place / "index.md").as_posix()
    # A README would be the index of its folder.
    name = (
        "about.md" if path.name == "README.md" else path.name if path.suffix == ".md" else f"{path.name}.md"
    )
    return place.with_name(name).as_posix()


def content(path: Path) -> str:
    """The page of what is not in docs/ as one."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    title = f"# {path.relative_to(ROOT).as_posix()}\n\n"
    if path.is_dir():
        return title + "".join(f"- [{label(file)}]({file.name})\n" for file in shown(path))
    language = path.suffix.removeprefix(".") or "text"
    return f"{title}~~~~{language}\n{path.read_text(encoding='utf-8').rstrip()}\n~~~~\n"


def shown(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if file.is_file()]


def label(path: Path) -> str:
    """The heading of a page, the name of another file."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("# ") if path.suffix == ".md" else path.name


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Every link goes to where its target is in the site; what mkdocs then does not find is an error of the page."""
    here = page.file.src_uri
    source = SOURCES.get(here, DOCS / here)
    folder = source if source.is_dir() else source.parent

    def moved(found: re.Match[str]) -> str:
        target = destination(folder, found["target"]) if found["target"] else None
        if target is None:
            return found[0]
        place = os.path.relpath(address(target), os.path.dirname(here))  # noqa: PTH120  # of the site, not a file
        return f"[{found['text']}]({place}{found['anchor'] or ''})"

    return FENCE_OR_LINK.sub(moved, markdown)
