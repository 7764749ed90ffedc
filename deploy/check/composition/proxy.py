"""Rules for the configuration of nginx, as text: what it does is seen by the stage that runs it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROUTES = "deploy/nginx/routes.conf"
PASSED = {"= /graphql", "~ ^/health(/database|/queue)?$"}
HEADERS = {
    "X-Forwarded-For": "$remote_addr",
    "X-Forwarded-Proto": "$scheme",
    "Upgrade": "$http_upgrade",
    "Connection": "$upgrade_or_keep",
}


def routes(root: Path) -> Iterator[str]:
    """Two things are passed on, with what they need; what a caller says of itself is not."""
    text = (root / ROUTES).read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^location (\S+ ?\S*) \{\n(.*?)^\}", text, flags=re.MULTILINE | re.DOTALL))
    passed = {name for name, block in blocks.items() if "proxy_pass" in block}
    if passed != PASSED:
        yield f"{ROUTES}: expected to pass on {' and '.join(sorted(PASSED))}, found {', '.join(sorted(passed))}"
    for name, value in HEADERS.items():
        if f"proxy_set_header {name} {value};" not in text:
            yield f"{ROUTES}: expected proxy_set_header {name} {value}"
    if "proxy_buffering off;" not in blocks.get("= /graphql", ""):
        yield f"{ROUTES}: expected proxy_buffering off for /graphql: a stream's events would be held back"
    if "if ($inside = 0)" not in blocks.get("~ ^/health(/database|/queue)?$", ""):
        yield f"{ROUTES}: expected /health for the networks of the house alone"


def servers(root: Path) -> Iterator[str]:
    """http and https have the same routes."""
    for name in ("http", "tls"):
        file = f"deploy/nginx/{name}/taskmill.conf"
        if (root / file).read_text(encoding="utf-8").count("include /etc/nginx/routes.conf;") != 1:
            yield f"{file}: expected the routes of {ROUTES}"
