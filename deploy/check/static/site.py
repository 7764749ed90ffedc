"""The documentation as a site: it builds without a warning, and no page of it loads anything from elsewhere."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from deploy.check.command import run
from deploy.check.stage import Broken, Check, Plant
from deploy.check.tools import tool

LOADED = re.compile(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="((?:https?:)?//[^"]+)"')
LINKED = re.compile(
    r'<link\b(?=[^>]*\brel="?(?:stylesheet|preconnect|preload)"?)[^>]*\bhref="((?:https?:)?//[^"]+)"'
)


def builds(root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="taskmill-site-") as folder:
        config = ["--config-file", str(root / "mkdocs.yml")]
        run([str(tool("mkdocs")), "build", "--strict", *config, "--site-dir", folder])
        pages = sorted(Path(folder).rglob("*.html"))
        if len(pages) < len(list((root / "docs").rglob("*.md"))):
            raise Broken(f"mkdocs made {len(pages)} pages only")
        for page in pages:
            text = page.read_text(encoding="utf-8")
            for pattern in (LOADED, LINKED):
                if found := pattern.search(text):
                    raise Broken(
                        f"the page {page.relative_to(folder)} loads {found[1]}: a reader needs no other site"
                    )


CHECKS = (
    Check(
        "documentation site",
        builds,
        (
            Plant("docs/howto/access.md", "(../reference/roles.md)", "(../reference/rolls.md)", "rolls.md"),
            Plant("docs/README.md", "(explanation/outages.md)", "(explanation/outages.md#cause)", "#cause"),
            Plant(
                "docs/README.md",
                "- [What the clocks do to a schedule](explanation/dst.md)\n",
                "",
                "explanation/dst.md",
            ),
            Plant("mkdocs.yml", "font: false", "font: { text: Roboto }", "fonts.g"),
        ),
    ),
)
