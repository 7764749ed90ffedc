"""Who sent it, from which page, and what a browser is told."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.types import Scope
from websockets.exceptions import InvalidStatus

from taskmill.api.headers import Origins, Proxies, accepts, site
from taskmill.api.options import ApiOptions
from tests.api.kit import Api, running
from tests.databases import MigratedStores

PAGE = "https://good.example"
QUERY = {"query": "{ __typename }"}


# ---- proxies ------------------------------------------------------------------------------------------------------


def told(client: str, *headers: tuple[str, str], trusted: tuple[str, ...], kind: str = "http") -> Scope:
    """The scope of a request after the proxies were looked at."""
    scope: Scope = {
        "type": kind,
        "client": (client, 1234),
        "scheme": "ws" if kind == "websocket" else "http",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
    }
    Proxies([ipaddress.ip_network(network) for network in trusted]).unfold(scope)
    return scope


@pytest.mark.parametrize(
    ("client", "forwarded", "trusted", "caller"),
    [
        ("192.0.2.9", "198.51.100.1", (), "192.0.2.9"),
        ("192.0.2.9", "198.51.100.1", ("10.0.0.0/8",), "192.0.2.9"),
        ("10.0.0.1", "198.51.100.1", ("10.0.0.0/8",), "198.51.100.1"),
        ("10.0.0.1", "203.0.113.5, 198.51.100.1", ("10.0.0.0/8",), "198.51.100.1"),
        ("10.0.0.1", "203.0.113.5, 198.51.100.1, 10.0.0.2", ("10.0.0.0/8",), "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", ("10.0.0.0/8",), "10.0.0.3"),
        ("10.0.0.1", "198.51.100.1:5000", ("10.0.0.1",), "198.51.100.1"),
        ("10.0.0.1", "[2001:db8::1]:5000", ("10.0.0.1",), "2001:db8::1"),
        ("::1", "2001:db8::1", ("::1",), "2001:db8::1"),
        ("::ffff:10.0.0.1", "198.51.100.1", ("10.0.0.0/8",), "198.51.100.1"),
        ("10.0.0.1", "", ("10.0.0.0/8",), "10.0.0.1"),
        ("10.0.0.1", "unknown", ("10.0.0.0/8",), "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, junk, 10.0.0.2", ("10.0.0.0/8",), "10.0.0.2"),
        ("10.0.0.1", "203.0.113.5," * 5000 + "198.51.100.1", ("10.0.0.0/8",), "198.51.100.1"),
    ],
)
def test_the_right_most_hop_that_is_not_ours(
    client: str, forwarded: str, trusted: tuple[str, ...], caller: str
) -> None:
    """X-Forwarded-For counts from a configured proxy only, and only as far as proxies of ours wrote it."""
    scope = told(client, ("X-Forwarded-For", forwarded), trusted=trusted)
    assert scope["client"][0] == caller


def test_several_headers_are_one() -> None:
    """A caller that sends a header of its own gets no further than with a value of its own."""
    headers = [("X-Forwarded-For", "203.0.113.5"), ("X-Forwarded-For", "198.51.100.1")]
    assert told("10.0.0.1", *headers, trusted=("10.0.0.1",))["client"][0] == "198.51.100.1"


def test_https_before_the_proxy() -> None:
    """X-Forwarded-Proto makes it https, or wss, when a proxy of ours says so."""
    header = ("X-Forwarded-Proto", "https")
    assert told("10.0.0.1", header, trusted=("10.0.0.1",))["scheme"] == "https"
    assert told("10.0.0.1", header, trusted=("10.0.0.1",), kind="websocket")["scheme"] == "wss"
    assert told("10.0.0.2", header, trusted=("10.0.0.1",))["scheme"] == "http"


async def test_a_proxy_that_nobody_told_of(store_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The log says once that all who come through it count as one."""
    async with running(store_url) as api:
        for _ in range(3):
            await api.post(QUERY, token="", X_Forwarded_For="198.51.100.1")
    assert "".join(capfd.readouterr()).count("proxy.unknown") == 1


@pytest.mark.parametrize(
    ("host", "known_as"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("testclient", ""),
    ],
)
def test_site(host: str, known_as: str) -> None:
    """Limits know a host of IPv6 by its network: it could change the rest with each call."""
    assert site(host) == known_as


# ---- what every answer says ---------------------------------------------------------------------------------------


@dataclass
class Pages:
    """An API behind a proxy on this machine, and one page that may use it."""

    api: Api

    async def answer(self, method: str = "POST", path: str = "/graphql", **headers: str) -> Any:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        body = QUERY if method == "POST" else None
        return await self.api.http.request(method, path, json=body, headers=sent)


@pytest.fixture(scope="module")
async def pages(
    migrated_stores: MigratedStores, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Pages]:
    options = ApiOptions(
        allowed_origins=(PAGE,),
        allowed_hosts=("tasks.example.com",),
        trusted_proxies=(ipaddress.ip_network("127.0.0.0/8"),),
    )
    with migrated_stores.lend("sqlite", tmp_path_factory.mktemp("pages")) as url:
        async with running(url, options=options) as api:
            yield Pages(api)


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", "/graphql", {}),
        ("GET", "/graphql", {}),
        ("GET", "/health", {}),
        ("GET", "/metrics", {}),
        ("GET", "/nothing", {}),
        ("POST", "/graphql", {"Authorization": "Bearer x"}),
        ("POST", "/graphql", {"Host": "evil.example"}),
        ("POST", "/graphql", {"Accept": "image/png"}),
        ("OPTIONS", "/graphql", {"Origin": PAGE, "Access-Control-Request-Method": "POST"}),
    ],
    ids=str,
)
async def test_security_headers(pages: Pages, method: str, path: str, headers: dict[str, str]) -> None:
    """Whatever the answer: no sniffing, no framing, no script, no referrer, no caching, and a number of its own."""
    answer = await pages.answer(method, path, **headers)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Request-Id"]
    assert "Server" not in answer.headers
    assert "Strict-Transport-Security" not in answer.headers


async def test_hsts(pages: Pages) -> None:
    """A browser that came by https is told to stay with it."""
    answer = await pages.answer(X_Forwarded_Proto="https")
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


async def test_pages_may_not_be_framed(api: Api) -> None:
    """The two pages of development load their scripts, and stand in no frame."""
    for path in ("/graphql", "/graphiql"):
        answer = await api.http.get(path, headers={"Accept": "text/html"})
        assert answer.status_code == 200
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Frame-Options"] == "DENY"


async def test_no_page_in_production(pages: Pages) -> None:
    """Production has no page for trying documents."""
    assert (await pages.answer("GET", "/graphql", Accept="text/html")).status_code == 405
    assert (await pages.answer("GET", "/graphiql", Accept="text/html")).status_code == 404
    assert (await pages.answer("GET", "/", Accept="text/html")).status_code == 404


# ---- pages of other origins ---------------------------------------------------------------------------------------


async def test_preflight(pages: Pages) -> None:
    """A page of the list may send what an operation needs."""
    answer = await pages.answer("OPTIONS", Origin=PAGE, Access_Control_Request_Method="POST")
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert answer.headers["Access-Control-Allow-Methods"] == "POST"
    assert answer.headers["Access-Control-Allow-Headers"] == "Authorization, Content-Type"
    assert answer.headers["Vary"] == "Origin"


async def test_an_answer_to_a_page(pages: Pages) -> None:
    """It may read answers, errors too, and when to come again; cookies and the like are none of ours."""
    for headers in ({}, {"Authorization": "Bearer x"}):
        answer = await pages.answer(Origin=PAGE, **headers)
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://good.example.evil.example", "http://good.example"])  # fmt: skip
async def test_other_pages(pages: Pages, origin: str) -> None:
    """No other page is told anything, before and after."""
    before = await pages.answer("OPTIONS", Origin=origin, Access_Control_Request_Method="POST")
    assert before.status_code == 405
    after = await pages.answer(Origin=origin)
    assert not [
        name for answer in (before, after) for name in answer.headers if name.startswith("access-control")
    ]
    assert after.headers["Vary"] == "Origin"


def test_no_list_no_pages() -> None:
    """Without a setting no page of another origin may read anything."""
    scope = {
        "method": "OPTIONS",
        "headers": [(b"origin", b"null"), (b"access-control-request-method", b"POST")],
    }
    assert Origins(()).headers(scope) == {}
    assert Origins(()).preflight(scope) is None


async def test_socket_to_another_host(pages: Pages) -> None:
    """A WebSocket's handshake is refused as a request would be."""
    with pytest.raises(InvalidStatus) as refused:
        async with pages.api.bare_socket(additional_headers={"Host": "evil.example"}):
            pass
    assert refused.value.response.status_code == 400
    assert b"BAD_REQUEST" in (refused.value.response.body or b"")


# ---- Accept -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("", True),
        ("*/*", True),
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("application/graphql-response+json", True),
        ("text/event-stream", True),
        ("image/png, */*;q=0.1", True),
        ("text/html, application/*;q=0.5", True),
        ("image/png", False),
        ("application/json;q=0", False),
        ("application/json; q=0.000", False),
        ("application/json;q=0.001", True),
        ("application/xml, image/*", False),
        ("/", False),
    ],
)
def test_accept(header: str, taken: bool) -> None:
    """An answer is sent in a form that the client takes, or not at all."""
    assert accepts(header) is taken
