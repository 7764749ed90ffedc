"""WEBHOOK: an HTTP POST to an address that a user names, and that may be meant to reach inside.

    {"url": "https://example.com/hook", "body": {"any": "JSON"}, "headers": {"X-Shop": "1"}}
    → {"status": 204, "bytes": 0}

The name is resolved once, every address that it has is checked, and the connection goes to a checked address, under
the name's certificate: a name that resolves differently the second time gains nothing. No redirects. What is
answered is counted and thrown away.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from taskmill.app import Context
from taskmill.errors import Fail, Retry
from taskmill.handlers.files import text_of
from taskmill.handlers.options import HandlerOptions
from taskmill.model.jsontext import json_text

if TYPE_CHECKING:
    import httpx2

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

TIMEOUT: Final = 5.0
"""Seconds for resolving, and again for the whole exchange."""
ANSWER_LIMIT: Final = 64 * 1024
HEADERS_LIMIT: Final = 20
LONGEST_WAIT: Final = 86400.0
"""Seconds: what a Retry-After may ask for at most."""
ADDRESSES_TRIED: Final = 3

_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?\.?|\[[0-9a-f:.]{2,45}\]")
_HEADER: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
_VALUE: Final = re.compile(r"[\x20-\x7e]{0,1000}")
_OURS: Final = frozenset(
    ("host", "content-length", "content-type", "transfer-encoding", "connection", "upgrade", "te", "trailer")
    + ("accept-encoding", "user-agent", "expect", "idempotency-key", "proxy-authorization", "keep-alive")
)
_EMBEDDED: Final = (  # IPv6 forms that carry an IPv4 address, and where in the 128 bits its last bit is
    (ipaddress.ip_network("::ffff:0:0/96"), 0),
    (ipaddress.ip_network("::/96"), 0),
    (ipaddress.ip_network("64:ff9b::/96"), 0),
    (ipaddress.ip_network("2002::/16"), 80),
)
_NEVER: Final = (ipaddress.ip_network("2001::/32"), ipaddress.ip_network("64:ff9b:1::/48"))


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads, taken apart once."""

    scheme: str
    host: str
    """Lower case, ASCII, without brackets."""
    port: int
    path: str
    """With the query."""

    @property
    def authority(self) -> str:
        """As the Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"


async def call_webhook(ctx: Context, payload: Any) -> dict[str, Any]:
    """Fail: it will never go well (4xx, a redirect, an address that is refused). Retry: it may (5xx, 429, no answer)."""
    options = HandlerOptions.read()
    target = parse_target(text_of(payload, "url", "an https:// address"), options.webhook_allow_private)
    headers = _headers(payload.get("headers", {})) | {
        "Host": target.authority,
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": "taskmill",
        "Idempotency-Key": ctx.task_id,
    }
    body = json_text(payload.get("body")).encode()
    addresses = await checked_addresses(target, options.webhook_allow_private)
    status, after, size = await _post(target, addresses, headers, body)
    ctx.log("info", "answered", status=status, bytes=size)
    if 200 <= status < 300:
        return {"status": status, "bytes": size}
    if status in (408, 425, 429) or status >= 500:
        raise Retry(f"{target.authority} answered {status}", after=after)
    if 300 <= status < 400:
        raise Fail(f"{target.authority} answered {status}: redirects are not followed")
    raise Fail(f"{target.authority} answered {status}")


def parse_target(url: str, allow_private: bool) -> Target:
    """Fail unless it is https on port 443; with `allow_private` http and any port too."""
    try:
        if len(url) > 2000 or re.search(r"[\x00-\x20\x7f\\]", url):
            raise ValueError("characters")
        parts = urlsplit(url)
        port = parts.port
        if "@" in parts.netloc or parts.hostname is None:
            raise ValueError("user")
        host = parts.hostname.encode("idna").decode() if not parts.hostname.isascii() else parts.hostname
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not _HOST.fullmatch(f"[{host}]" if ":" in host else host) or not path.isascii():
            raise ValueError("host or path")
    except (ValueError, UnicodeError):
        raise Fail("payload.url: expected an address such as https://example.com/hook") from None
    if parts.scheme not in (("https", "http") if allow_private else ("https",)):
        raise Fail("payload.url: expected https://")
    default = 443 if parts.scheme == "https" else 80
    if not allow_private and port not in (None, 443):
        raise Fail("payload.url: expected no port, or 443")
    return Target(parts.scheme, host, port or default, path)


def _headers(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > HEADERS_LIMIT:
        raise Fail(f"payload.headers: expected an object of at most {HEADERS_LIMIT} texts")
    for name, text in value.items():
        if not _HEADER.fullmatch(name) or not isinstance(text, str) or not _VALUE.fullmatch(text):
            raise Fail(f"payload.headers: {name[:64]!r} is not a header of one line of ASCII text")
        if name.lower() in _OURS:
            raise Fail(f"payload.headers: {name} is not yours to set")
    return dict(value)


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system has them."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def checked_addresses(target: Target, allow_private: bool) -> list[Address]:
    """All addresses of the target. Fail when one of them is not to be called; Retry when it has none now."""
    try:
        async with asyncio.timeout(TIMEOUT):
            texts = await resolve(target.host, target.port)
    except (OSError, UnicodeError, TimeoutError):
        raise Retry(f"{target.host} is not found") from None
    addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in texts]
    if not addresses:
        raise Retry(f"{target.host} is not found")
    if not all(is_allowed(address, allow_private) for address in addresses):
        raise Fail(f"payload.url: {target.host} is not a public address, and others are refused")
    return addresses


def is_allowed(address: Address, allow_private: bool) -> bool:
    """Public ones; with `allow_private` those of private networks and this machine too. Never link-local ones, where
    clouds keep their credentials, nor multicast, nor unspecified ones."""
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in _NEVER):
            return False
        if address != ipaddress.IPv6Address("::1"):
            for network, shift in _EMBEDDED:
                if address in network:
                    carried = ipaddress.IPv4Address((int(address) >> shift) & 0xFFFFFFFF)
                    return is_allowed(carried, allow_private)
        if address.is_site_local:
            return False
    if address.is_multicast or address.is_link_local or address.is_unspecified:
        return False
    if allow_private and (address.is_private or address.is_loopback):
        return True
    return address.is_global and not address.is_reserved


async def _post(
    target: Target, addresses: list[Address], headers: dict[str, str], body: bytes
) -> tuple[int, float | None, int]:
    """Status, seconds of Retry-After, and how many bytes were answered (at most ANSWER_LIMIT are read)."""
    import httpx2  # here: a runner that calls nobody does not need it

    last = "no address"
    for address in addresses[:ADDRESSES_TRIED]:
        try:
            async with asyncio.timeout(TIMEOUT):
                return await _post_to(address, target, headers, body)
        except httpx2.ConnectError as error:
            last = type(error).__name__  # nothing was sent: the next address may be tried
        except (httpx2.HTTPError, TimeoutError, OSError) as error:
            raise Retry(f"{target.authority} does not answer ({type(error).__name__})") from None
    raise Retry(f"{target.authority} does not answer ({last})")


async def _post_to(
    address: Address, target: Target, headers: dict[str, str], body: bytes
) -> tuple[int, float | None, int]:
    import httpx2

    host = f"[{address}]" if address.version == 6 else str(address)
    url = f"{target.scheme}://{host}:{target.port}{target.path}"
    extensions = {"sni_hostname": target.host} if target.scheme == "https" else {}
    async with (
        httpx2.AsyncClient(trust_env=False, follow_redirects=False, timeout=TIMEOUT) as client,
        client.stream("POST", url, headers=headers, content=body, extensions=extensions) as response,
    ):
        size = 0
        async for chunk in response.aiter_raw():
            size += len(chunk)
            if size > ANSWER_LIMIT:
                break
        return response.status_code, _retry_after(response), min(size, ANSWER_LIMIT)


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds, from either form of the header; None when it has none that can be read."""
    text = response.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), LONGEST_WAIT)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    wait = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(wait, 0.0), LONGEST_WAIT)
