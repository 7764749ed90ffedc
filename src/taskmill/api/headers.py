"""What the headers of a request say about who sent it, through whom, from which page, and what may come back."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from starlette.types import Scope

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

HOPS_MOST: Final = 20
"""Proxies of X-Forwarded-For that are looked at."""
PREFLIGHT_SECONDS: Final = 600

_HOST: Final = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
_LOCAL: Final = "localhost"
_ANSWERS: Final = frozenset(
    {
        "*/*",
        "application/*",
        "application/json",
        "application/graphql-response+json",
        "text/*",
        "text/event-stream",
    }
)


def first(scope: Scope, name: bytes) -> str:
    """The first header of that name; empty when there is none."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def joined(scope: Scope, name: bytes) -> str:
    """All headers of that name as the one they stand for."""
    return ",".join(value.decode("latin-1") for key, value in scope["headers"] if key == name)


# ---- who sent it ----------------------------------------------------------------------------------------------


def address(text: str) -> Address | None:
    """`192.0.2.1`, `::1`, with a port too: `192.0.2.1:80`, `[::1]:80`. IPv4 in IPv6 is IPv4. None: it is something else."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found


def site(host: str) -> str:
    """An address as limits know it. A site has 2^64 addresses of IPv6, and would have as many limits."""
    found = address(host)
    if isinstance(found, ipaddress.IPv6Address):
        found = ipaddress.IPv6Address(int(found) >> 64 << 64)
    return "" if found is None else str(found)


class Proxies:
    """The proxies whose word counts: what anybody else says of whom it speaks for, anybody could say."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks

    def trusts(self, host: Address | None) -> bool:
        return host is not None and any(host in network for network in self._networks)

    def unfold(self, scope: Scope) -> None:
        """Sets client and scheme of the scope to those of the request that the first proxy of ours got: the right-most
        hop that is none of them. What stands left of it, its sender may have made up."""
        client = scope.get("client")
        if not self._networks or client is None or not self.trusts(address(client[0])):
            return
        host: Address | None = None
        for hop in reversed(joined(scope, b"x-forwarded-for").split(",")[-HOPS_MOST:]):
            found = address(hop)
            if found is None:
                break
            host = found
            if not self.trusts(host):
                break
        if host is not None:
            scope["client"] = (str(host), 0)
        secure = joined(scope, b"x-forwarded-proto").rpartition(",")[2].strip().lower() in ("https", "wss")
        if secure:
            scope["scheme"] = "wss" if scope["type"] == "websocket" else "https"


# ---- to which host --------------------------------------------------------------------------------------------


class Hosts:
    """The names that this server answers to: `tasks.example.com`, `*.example.com` for all below it; none: any.

    An address is always one, and so is localhost: only a name can be made to point here by somebody else.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name for name in names if not name.startswith("*"))
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*"))

    def knows(self, host: str) -> bool:
        """Whether a Host header names one of them."""
        form = _HOST.fullmatch(host)
        if form is None:
            return False
        if not self._names and not self._suffixes:
            return True
        name = form[1].lower().removesuffix(".")
        if name == _LOCAL or name in self._names or address(name) is not None:
            return True
        return bool(self._suffixes) and name.endswith(self._suffixes)


# ---- from which page ------------------------------------------------------------------------------------------


class Origins:
    """The web pages of other origins that may read our answers."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(allowed)

    def headers(self, scope: Scope) -> Mapping[str, str]:
        """What an answer says to a browser about it."""
        if not self._allowed:
            return {}
        origin = first(scope, b"origin").lower()
        if origin not in self._allowed:
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": "Retry-After, X-Request-Id",
        }

    def preflight(self, scope: Scope) -> Mapping[str, str] | None:
        """The answer to a browser that asks whether a page may call; None when it is no such question, or it may not."""
        if scope["method"] != "OPTIONS" or not first(scope, b"access-control-request-method"):
            return None
        if first(scope, b"origin").lower() not in self._allowed:
            return None
        return {
            "Access-Control-Allow-Methods": "POST",
            "Access-Control-Allow-Headers": "Authorization, Content-Type",
            "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
        }


# ---- what may come back ---------------------------------------------------------------------------------------


def accepts(header: str) -> bool:
    """Whether an Accept header takes any form that our answers have. An empty one takes all."""
    kinds = [part.partition(";") for part in header.lower().split(",") if part.strip()]
    return not kinds or any(
        kind.strip() in _ANSWERS and not re.search(r"\bq=0(\.0*)?\s*(;|$)", rest) for kind, _, rest in kinds
    )
