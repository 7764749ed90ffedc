"""WEBHOOK: reaches what it may, whatever the URL, the name's addresses and the answer are."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from taskmill.app import Context
from taskmill.errors import Fail, Retry
from taskmill.handlers import webhook
from taskmill.handlers.webhook import call_webhook, is_allowed, parse_target
from tests.support import free_port

pytestmark = pytest.mark.usefixtures("configure")


# -- URLs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://example.com", ("https", "example.com", 443, "/", "example.com")),
        ("https://Example.com:443/a?b=c#d", ("https", "example.com", 443, "/a?b=c", "example.com")),
        ("https://bücher.example/x", ("https", "xn--bcher-kva.example", 443, "/x", "xn--bcher-kva.example")),
        ("https://[2606:4700::1111]/", ("https", "2606:4700::1111", 443, "/", "[2606:4700::1111]")),
    ],
)
def test_a_url_is_taken_apart_once(url: str, target: tuple[str, str, int, str, str]) -> None:
    """Scheme, host, port, path, and the Host header."""
    found = parse_target(url, allow_private=False)
    assert (found.scheme, found.host, found.port, found.path, found.authority) == target


@pytest.mark.parametrize(
    "url",
    ["http://example.com", "ftp://example.com", "file:///etc/passwd", "gopher://example.com", "//example.com", "example.com"]
    + ["https://user@example.com", "https://user:pass@example.com", "https://example.com@127.0.0.1", "https://", "https:///x"]
    + ["https://example.com:8443", "https://example.com:22", "https://example.com:0", "https://example.com:x"]
    + ["https://exa mple.com", "https://example.com/a b", "https://example.com\r\nX: y", "https://example.com\\@127.0.0.1"]
    + ["https://example.com/ü", "https://[::1", "https://[fe80::1%25eth0]/", "https://" + "a" * 2000, "https://-a.example"]
    + ["https://exa%6dple.com", "javascript:alert(1)", "https://example.com\u2028"],
    ids=repr,
)  # fmt: skip
def test_urls_that_are_refused(url: str) -> None:
    """Other schemes and ports, users, control characters, and what parsers disagree about."""
    with pytest.raises(Fail, match=r"payload\.url: expected"):
        parse_target(url, allow_private=False)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "127.8.9.1", "0x7f000001", "2130706433", "0177.0.0.1", "0", "0.0.0.0", "localhost", "localhost."]
    + ["LOCALHOST", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]"]
    + ["[2002:7f00:1::]", "[2001:0:7f00:1::]", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254"]
    + ["[fe80::1]", "[fc00::1]", "[fec0::1]", "224.0.0.1", "[ff02::1]", "255.255.255.255", "240.0.0.1", "192.0.2.1"]
    + ["[::ffff:169.254.169.254]", "198.18.0.1", "192.0.0.1"],
)  # fmt: skip
async def test_addresses_that_are_refused(host: str, ctx: Context) -> None:
    """This machine, private networks, carriers' ones, link-local, multicast, reserved: in every way to write them."""
    with pytest.raises((Fail, Retry), match=r"(not a public address|is not found)"):
        await call_webhook(ctx, {"url": f"https://{host}/"})


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808", "2002:808:808::"]
)
def test_public_addresses_are_allowed(address: str) -> None:
    """IPv6 forms that carry a public IPv4 address too."""
    assert is_allowed(ipaddress.ip_address(address), allow_private=False)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [("127.0.0.1", True), ("::1", True), ("10.0.0.1", True), ("fc00::1", True), ("::ffff:10.0.0.1", True)]
    + [("169.254.169.254", False), ("fe80::1", False), ("224.0.0.1", False), ("0.0.0.0", False), ("::", False)]
    + [("::ffff:169.254.169.254", False), ("64:ff9b::a9fe:a9fe", False)],
)  # fmt: skip
def test_the_setting_allows_private_ones_only(address: str, allowed: bool) -> None:
    """Never the addresses where clouds keep their credentials."""
    assert is_allowed(ipaddress.ip_address(address), allow_private=True) is allowed


# -- resolving -------------------------------------------------------------------------------------------


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A resolver that answers as told, one answer a call, and keeps what it was asked."""
    asked: list[str] = []

    def tell(*answers: Any) -> list[str]:
        left = list(answers)

        async def resolve(host: str, port: int) -> list[str]:
            asked.append(host)
            answer = left.pop(0)
            if isinstance(answer, BaseException):
                raise answer
            return list(answer)

        monkeypatch.setattr(webhook, "resolve", resolve)
        return asked

    return tell


@pytest.mark.parametrize(
    "addresses", [["10.0.0.1"], ["1.1.1.1", "10.0.0.1"], ["::ffff:127.0.0.1"], ["fe80::1%eth0"]]
)
async def test_a_name_with_a_private_address_is_refused(
    addresses: list[str], names: Any, ctx: Context
) -> None:
    """One such address is enough."""
    names(addresses)
    with pytest.raises(Fail, match="not a public address"):
        await call_webhook(ctx, {"url": "https://hook.example/"})


@pytest.mark.parametrize("answer", [OSError("no such name"), TimeoutError(), []], ids=repr)
async def test_a_name_without_an_address_is_tried_again(answer: Any, names: Any, ctx: Context) -> None:
    """It may have one later."""
    names(answer)
    with pytest.raises(Retry, match=r"hook\.example is not found"):
        await call_webhook(ctx, {"url": "https://hook.example/"})


# -- calling ---------------------------------------------------------------------------------------------


class Receiver:
    """An HTTP server that gives one answer and keeps what it got."""

    def __init__(self, answer: bytes, delay: float = 0.0) -> None:
        self.answer = answer
        self.delay = delay
        self.requests: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
            self.requests.append(head + await reader.readexactly(length))
            await asyncio.sleep(self.delay)
            writer.write(self.answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def receiving(answer: bytes, delay: float = 0.0, **options: Any) -> AsyncIterator[Receiver]:
    receiver = Receiver(answer, delay)
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, **options)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def test_what_is_sent(names: Any, configure: Callable[..., Any], ctx: Context) -> None:
    """A POST of the body to the checked address, under the URL's own name; resolved once, so rebinding gains nothing."""
    configure(webhook_allow_private=True)
    asked = names(["127.0.0.1"], ["10.0.0.1"])
    async with receiving(answer("204 No Content")) as receiver:
        url = f"http://hook.example:{receiver.port}/in?x=1"
        payload = {"url": url, "body": {"n": [1, "ü"]}, "headers": {"X-Shop": "7"}}
        assert await call_webhook(ctx, payload) == {"status": 204, "bytes": 0}
    (request,) = receiver.requests
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    assert lines[0] == "POST /in?x=1 HTTP/1.1"
    assert (headers["host"], headers["x-shop"]) == (f"hook.example:{receiver.port}", "7")
    assert headers["idempotency-key"] == ctx.task_id
    assert (headers["content-type"], json.loads(body)) == ("application/json", {"n": [1, "ü"]})
    assert asked == ["hook.example"]


@pytest.mark.parametrize(
    ("status", "headers", "kind", "after"),
    [
        ("200 OK", [], None, None),
        ("301 Moved", ["Location: http://127.0.0.1/"], Fail, None),
        ("400 Bad Request", [], Fail, None),
        ("404 Not Found", ["Retry-After: 7"], Fail, None),
        ("408 Timeout", [], Retry, None),
        ("429 Too Many", ["Retry-After: 7"], Retry, 7),
        ("429 Too Many", ["Retry-After: 99999999999999"], Retry, webhook.LONGEST_WAIT),
        ("429 Too Many", ["Retry-After: soon"], Retry, None),
        ("500 Oops", [], Retry, None),
        ("503 Busy", ["Retry-After: 0"], Retry, 0),
        ("503 Busy", ["Retry-After: Wed, 21 Oct 2015 07:28:00 GMT"], Retry, 0),
        ("503 Busy", ["Retry-After: Wed, 21 Oct 2099 07:28:00 GMT"], Retry, webhook.LONGEST_WAIT),
    ],
    ids=str,
)
async def test_what_an_answer_means(
    status: str, headers: list[str], kind: Any, after: float | None, configure: Any, ctx: Context
) -> None:
    """2xx is done, 4xx and redirects are for good, 5xx and 429 are tried again, when the receiver says so."""
    configure(webhook_allow_private=True)
    async with receiving(answer(status, b"ok", *headers)) as receiver:
        payload = {"url": f"http://127.0.0.1:{receiver.port}/"}
        if kind is None:
            assert await call_webhook(ctx, payload) == {"status": 200, "bytes": 2}
            return
        with pytest.raises(kind, match=status.split(maxsplit=1)[0]) as caught:
            await call_webhook(ctx, payload)
    assert getattr(caught.value, "after", None) == after
    assert len(receiver.requests) == 1


async def test_a_long_answer_is_cut(configure: Any, ctx: Context) -> None:
    """64 KiB are read, and nothing of it is kept; compressed ones are not unpacked."""
    configure(webhook_allow_private=True)
    async with receiving(answer("200 OK", b"x" * 1_000_000, "Content-Encoding: gzip")) as receiver:
        result = await call_webhook(ctx, {"url": f"http://127.0.0.1:{receiver.port}/"})
    assert result == {"status": 200, "bytes": webhook.ANSWER_LIMIT}


async def test_a_slow_receiver_is_tried_again(
    configure: Any, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time for the whole exchange, however slowly it drips."""
    configure(webhook_allow_private=True)
    monkeypatch.setattr(webhook, "TIMEOUT", 0.1)
    async with receiving(answer("200 OK"), delay=30) as receiver:
        with pytest.raises(Retry, match="does not answer"):
            await call_webhook(ctx, {"url": f"http://127.0.0.1:{receiver.port}/"})


@pytest.mark.parametrize(
    "said", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"]
)
async def test_no_http_is_tried_again(said: bytes, configure: Any, ctx: Context) -> None:
    """Silence, another protocol, half an answer."""
    configure(webhook_allow_private=True)
    async with receiving(said) as receiver:
        with pytest.raises(Retry, match="does not answer"):
            await call_webhook(ctx, {"url": f"http://127.0.0.1:{receiver.port}/"})


async def test_the_next_address_is_tried(names: Any, configure: Any, ctx: Context) -> None:
    """When one does not even take the connection."""
    configure(webhook_allow_private=True)
    async with receiving(answer("200 OK")) as receiver:
        names(["::1", "127.0.0.1"])
        assert (await call_webhook(ctx, {"url": f"http://hook.example:{receiver.port}/"}))["status"] == 200
    names(["127.0.0.1"])
    with pytest.raises(Retry, match="does not answer"):
        await call_webhook(ctx, {"url": f"http://hook.example:{free_port()}/"})


async def test_a_proxy_of_the_environment_is_not_used(
    names: Any, configure: Any, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would resolve the name again, elsewhere."""
    configure(webhook_allow_private=True)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    names(["127.0.0.1"])
    async with receiving(answer("200 OK")) as receiver:
        assert (await call_webhook(ctx, {"url": f"http://hook.example:{receiver.port}/"}))["status"] == 200


async def test_a_certificate_is_checked_for_the_name(
    names: Any, configure: Any, ctx: Context, tmp_path: Path
) -> None:
    """The handshake names the URL's host, not the address; a certificate that nobody vouches for ends it."""
    configure(webhook_allow_private=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate(tmp_path, "hook.example"))
    seen: list[Any] = []
    context.sni_callback = lambda _socket, name, _context: seen.append(name)
    async with receiving(answer("200 OK"), ssl=context) as receiver:
        names(["127.0.0.1"])
        with pytest.raises(Retry, match="does not answer"):
            await call_webhook(ctx, {"url": f"https://hook.example:{receiver.port}/"})
    assert (seen, receiver.requests) == (["hook.example"], [])


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Files of a self-signed certificate and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(1))
        .not_valid_after(now + dt.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    forms = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    chain, private = folder / "cert.pem", folder / "key.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, *forms))
    return chain, private


@pytest.mark.parametrize(
    "headers",
    [[], "x", {"Host": "evil"}, {"content-length": "1"}, {"X Y": "1"}, {"X": "a\r\nY: b"}, {"X": 1}, {"X": "ü"}, {"": "x"}]
    + [{"Transfer-Encoding": "chunked"}, {f"X-{n}": "1" for n in range(21)}],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
async def test_headers_that_are_refused(headers: Any, ctx: Context) -> None:
    """What belongs to the transport, what is no header, and too many."""
    with pytest.raises(Fail, match=r"payload\.headers: "):
        await call_webhook(ctx, {"url": "https://example.com/", "headers": headers})


@pytest.mark.parametrize(
    "payload", [None, [], {}, {"url": None}, {"url": ""}, {"url": ["https://example.com"]}], ids=str
)
async def test_no_url_fails_for_good(payload: Any, ctx: Context) -> None:
    """And says which field is meant."""
    with pytest.raises(Fail, match=r"payload\.url: "):
        await call_webhook(ctx, payload)
