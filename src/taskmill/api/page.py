"""The page at /graphql in development: try a document, see the answer, follow a subscription. It needs no network."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from typing import Final

PAGE: Final = files("taskmill.api").joinpath("page.html").read_text(encoding="utf-8")


def _hashes(tag: str) -> str:
    """What a content security policy calls the inline parts of the page, so that it allows no others."""
    parts = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


PAGE_POLICY: Final = (
    f"default-src 'none'; connect-src 'self'; script-src {_hashes('script')}; style-src {_hashes('style')}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
