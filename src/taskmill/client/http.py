"""One operation over HTTP: its data, or an error of taskmill.errors. What may be sent again is, within a time limit.

nothing was sent      → again
RATE_LIMITED          → again, when Retry-After says and the time limit allows
no answer, UNAVAILABLE→ a query again; a mutation may have been done, so it is the caller's to decide
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cache
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
import msgspec

from taskmill.errors import (
    BadUserInput,
    CommitUnknown,
    ConfigError,
    RateLimited,
    RequestError,
    TaskmillError,
    Unavailable,
)
from taskmill.model.backoff import Backoff

BACKOFF: Final = Backoff(base=0.2, cap=5.0)
IDLE: Final = 3.0
"""Seconds that an idle connection is kept: less than the server's, so that it never closes one as we use it."""
CONNECTIONS: Final = 100

_SENT_NOTHING: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_TRY_LATER: Final = frozenset({429, 502, 503, 504})

Headers = Mapping[str, str]


class Http:
    """The connections to one API. They belong to the event loop that uses them first."""

    def __init__(self, url: str, timeout: float) -> None:
        self.endpoint = endpoint(url)
        self.token: str | None = None
        self.timeout = timeout
        self.patient = True
        """Whether an API that cannot be reached is sought again; from its first answer on, it is."""
        self._rng = Random()
        self._client = httpx2.AsyncClient(
            limits=httpx2.Limits(
                max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=IDLE
            ),
            headers={"Accept": "application/json", "User-Agent": "taskmill-python"},
            trust_env=True,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def run(
        self,
        document: str,
        variables: Mapping[str, Any],
        *,
        repeat: bool,
        signed: bool = True,
        wait: float = 0.0,
    ) -> dict[str, Any]:
        """The data of the operation. `repeat`: running it twice is the same as once. `signed`: with the token. `wait`:
        seconds that the API is asked to wait, beside the time-out."""
        body = _encode({"query": document, "variables": variables})
        loop = asyncio.get_running_loop()
        limit = self.timeout + wait
        deadline = loop.time() + limit
        tries = 0
        while True:
            tries += 1
            try:
                return await self._once(body, deadline, self.token if signed else None, limit)
            except _Again as again:
                if again.sent and not repeat:
                    raise again.in_doubt() from None
                if not self.patient:
                    raise again.error from None
                pause = max(again.after, BACKOFF.delay(tries, self._rng))
                if loop.time() + pause >= deadline:
                    raise again.error from None
                await asyncio.sleep(pause)

    async def _once(self, body: bytes, deadline: float, token: str | None, limit: float) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._client.post(
                    self.endpoint, content=body, headers=headers, timeout=limit
                )
        except _SENT_NOTHING as error:
            raise _Again(
                Unavailable(f"{self.endpoint} cannot be reached: {_say(error)}"), sent=False
            ) from None
        except (TimeoutError, httpx2.TimeoutException):
            raise _Again(Unavailable(f"{self.endpoint} did not answer within {limit:g} s")) from None
        except httpx2.TransportError as error:
            raise _Again(Unavailable(f"{self.endpoint} did not answer: {_say(error)}")) from None
        return self._read(response)

    def _read(self, response: httpx2.Response) -> dict[str, Any]:
        self.patient = True
        try:
            answer = msgspec.json.decode(response.content)
        except msgspec.DecodeError:
            answer = None
        after = _seconds(response.headers.get("retry-after"))
        if not isinstance(answer, dict) or not (answer.get("errors") or isinstance(answer.get("data"), dict)):
            if response.status_code in _TRY_LATER:
                raise _Again(
                    Unavailable(f"{self.endpoint} answered HTTP {response.status_code}"), after=after
                )
            raise TaskmillError(
                f"{self.endpoint} answered HTTP {response.status_code} and nothing that Taskmill would: is the URL right?"
            )
        if errors := answer.get("errors"):
            error = error_of(errors, after)
            if error.code == "RATE_LIMITED":
                raise _Again(error, sent=False, told=True, after=after)
            if error.code == Unavailable.code:
                raise _Again(error, told=True, after=after)
            raise error
        data: dict[str, Any] = answer["data"]
        return data


class _Again(Exception):
    """It may work another time. `sent`: the operation may have been done. `told`: the error is the API's own.
    `after`: seconds, as the server says.
    """

    def __init__(
        self, error: TaskmillError, *, sent: bool = True, told: bool = False, after: float = 0.0
    ) -> None:
        super().__init__()
        self.error = error
        self.sent = sent
        self.told = told
        self.after = after

    def in_doubt(self) -> TaskmillError:
        """The error of an operation that is not sent again."""
        if self.told:
            return self.error
        return CommitUnknown(f"{self.error.message}: it may or may not have been done")


def endpoint(url: str) -> str:
    """`<url>/graphql`, whether or not it was written; ConfigError for what is no URL of an API."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment or parts.username:
        raise ConfigError("the URL of the API: expected one such as http://localhost:3000")
    path = parts.path.rstrip("/").removesuffix("/graphql")
    return f"{parts.scheme}://{parts.netloc}{path}/graphql"


def error_of(errors: Any, after: float = 0.0) -> TaskmillError:
    """The first error of an answer, as its class: by `extensions.code`."""
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    extensions = first.get("extensions") or {}
    code = str(extensions.get("code") or "INTERNAL")
    message = str(first.get("message") or "the API answered with an error")
    kind = _classes().get(code)
    error: TaskmillError
    error = RateLimited(message, int(after)) if kind is RateLimited else (kind or TaskmillError)(message)
    if kind is None:
        error.code = code  # type: ignore[misc]  # one that this version does not know
    if request := extensions.get("requestId"):
        error.add_note(f"request {request}")
    return error


@cache
def _classes() -> dict[str, type[TaskmillError]]:
    """Code → class, for what an API can answer. Of two with one code, the one nearer to the root."""
    found: dict[str, type[TaskmillError]] = {}
    level: list[type[TaskmillError]] = [*RequestError.__subclasses__(), Unavailable]
    while level:
        for kind in level:
            found.setdefault(kind.code, kind)
        level = [kind for parent in level for kind in parent.__subclasses__()]
    return found


def _encode(body: object) -> bytes:
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        raise BadUserInput("a text holds half a surrogate pair, which is no text") from None


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isascii() and text.isdigit() and len(text) <= 6 else 0.0


def _say(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
