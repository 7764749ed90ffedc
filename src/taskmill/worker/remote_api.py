"""The worker protocol as this worker speaks it, by the client's documents and types: calls, and one try over HTTP.

One call is one try: who calls decides what may be sent again, and when.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Generic, TypeVar

import httpx2
import msgspec

from taskmill.client import documents
from taskmill.client.http import IDLE, endpoint, error_of
from taskmill.client.types import CancelSignal, ClaimedTask, RenewedLease, SettledRun, WorkerSession
from taskmill.client.work import Lease, LogLine, Outcome
from taskmill.errors import RateLimited, TaskmillError, Unavailable
from taskmill.model.clock import boottime

CONNECTIONS: Final = 20
TRY_LATER: Final = frozenset({408, 429, 500, 502, 503, 504})
CALM: Final = 10.0
"""Seconds that a worker keeps still at most, when the API said that it asks too often: its leases go on."""

T = TypeVar("T")


class Broken(Unavailable):
    """INTERNAL: an error of the API itself, which may be over in a moment, or follow from what it was sent."""


class _Out(msgspec.Struct, rename="camel"):
    """Sent: fields in camelCase."""


class _In(msgspec.Struct, rename="camel"):
    """Received."""


class Retries(_Out):
    type: str | None
    max_retries: int


class Registering(_Out):
    worker: str
    name: str
    queues: tuple[str, ...]
    types: list[str]
    retries: list[Retries]
    host: str
    slots: int
    version: str


class Claiming(Registering):
    max: int
    suspects: int
    wait_seconds: float
    operation_id: str
    again: bool


class Renewing(_Out):
    worker: str
    leases: list[Lease]


class Settling(_Out):
    worker: str
    outcomes: list[Outcome]


class Logging(_Out):
    worker: str
    operation_id: str
    lines: list[LogLine]


class Task(_Out):
    title: str
    description: str | None
    type: str | None
    queue: str
    priority: str
    payload: msgspec.Raw
    scheduled_at: str | None
    max_retries: int | None


class Submitting(_Out):
    worker: str
    id: str
    fence: int
    operation_id: str
    inputs: list[Task]


class Leaving(_Out):
    worker: str


class Registered(_In):
    register_worker: WorkerSession


class Run(ClaimedTask, frozen=True, kw_only=True, rename="camel"):
    """Its payload as it came: the runner reads it."""

    payload: msgspec.Raw


class Runs(_In):
    tasks: list[Run]
    waited_seconds: float


class Claims(_In):
    claim_tasks: Runs


class Renewals(_In):
    renew_tasks: list[RenewedLease]


class Settlements(_In):
    settle_tasks: list[SettledRun]


class Taken(_In):
    append_logs: int


class Submitted(_In):
    submit_tasks: list[str]


class Left(_In):
    deregister_worker: bool


class Signals(_In):
    cancel_signals: list[CancelSignal]


class Operation(Generic[T]):
    """A document, and what its data is."""

    def __init__(self, document: str, data: type[T]) -> None:
        self.document = document
        self.decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Answer[data])  # type: ignore[valid-type]


class Answer(msgspec.Struct, Generic[T], frozen=True):
    data: T | None = None
    errors: list[dict[str, Any]] | None = None


REGISTER: Final = Operation(documents.REGISTER_WORKER, Registered)
CLAIM: Final = Operation(documents.CLAIM_TASKS, Claims)
RENEW: Final = Operation(documents.RENEW_TASKS, Renewals)
SETTLE: Final = Operation(documents.SETTLE_TASKS, Settlements)
LOG: Final = Operation(documents.APPEND_LOGS, Taken)
SUBMIT: Final = Operation(documents.SUBMIT_TASKS, Submitted)
LEAVE: Final = Operation(documents.DEREGISTER_WORKER, Left)
CANCELS: Final = Operation(documents.CANCEL_SIGNALS, Signals)


class Api:
    """Connections to one API, with one key."""

    def __init__(
        self, url: str, key: str, agent: str, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        self.endpoint = endpoint(url)
        self._calm = 0.0
        self._client = httpx2.AsyncClient(
            headers={
                "Accept": "application/json",
                "Authorization": f"Bearer {key}",
                "Content-Type": "application/json",
                "User-Agent": agent,
            },
            limits=httpx2.Limits(
                max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=IDLE
            ),
            transport=transport,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def ask(self, operation: Operation[T], timeout: float, **variables: Any) -> T:
        """One try: the data. Unavailable: no answer, or one that says to try again; any other error of ours: it is
        refused."""
        body = msgspec.json.encode({"query": operation.document, "variables": variables})
        wait = self._calm - boottime()
        if wait > 0:
            await asyncio.sleep(min(wait, timeout))
        try:
            async with asyncio.timeout(timeout):
                response = await self._client.post(self.endpoint, content=body, timeout=timeout)
        except (TimeoutError, httpx2.TimeoutException):
            raise Unavailable(f"{self.endpoint} did not answer within {timeout:g} s") from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise Unavailable(f"{self.endpoint}: {_say(error)}") from None
        return self._data(operation, response)

    def _data(self, operation: Operation[T], response: httpx2.Response) -> T:
        after = response.headers.get("retry-after", "")
        if response.status_code == 429 or after:
            seconds = float(after) if after.isascii() and after.isdigit() and len(after) < 6 else 1.0
            self._calm = boottime() + min(seconds, CALM)
        try:
            answer: Answer[T] = operation.decoder.decode(response.content)
        except msgspec.MsgspecError:
            if response.status_code in TRY_LATER:
                raise Unavailable(f"{self.endpoint} answered HTTP {response.status_code}") from None
            raise TaskmillError(
                f"{self.endpoint} answered HTTP {response.status_code} and nothing that Taskmill would: is the URL right?"
            ) from None
        if answer.errors:
            error = error_of(answer.errors)
            if error.code == "INTERNAL":
                raise Broken(error.message)
            if isinstance(error, RateLimited | Unavailable) or error.code == "TIMEOUT":
                raise Unavailable(error.message)
            raise error
        if answer.data is None:
            raise TaskmillError(f"{self.endpoint} answered without data")
        return answer.data


def _say(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
