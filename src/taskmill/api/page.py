"""The pages for trying documents, in development. Ours, at /graphql, needs no network; GraphiQL, at /graphiql, does."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from typing import Final

PAGE: Final = files("taskmill.api").joinpath("page.html").read_text(encoding="utf-8")


def graphiql() -> str:
    """GraphiQL as Strawberry brings it: its scripts come from a public CDN, so it stays blank without internet."""
    from strawberry.http.ides import get_graphql_ide_html

    here = 'window.location.href.split("?")[0]'
    return get_graphql_ide_html("graphiql").replace(here, 'new URL("/graphql", window.location.href).href')


def _hashes(tag: str) -> str:
    """What a content security policy calls the inline parts of the page, so that it allows no others."""
    parts = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


PAGE_POLICY: Final = (
    f"default-src 'none'; connect-src 'self'; script-src {_hashes('script')}; style-src {_hashes('style')}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CDN_POLICY: Final = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Of GraphiQL: where its scripts come from is its makers' choice."""
