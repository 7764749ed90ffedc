"""Live updates: graphql-transport-ws over a WebSocket that comes back when it breaks."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from random import Random
from time import monotonic
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from taskmill.client import documents
from taskmill.client.core import Calls, read
from taskmill.client.http import Http, error_of
from taskmill.client.types import TaskSummary
from taskmill.errors import BadRequest, Forbidden, TaskmillError, Unauthenticated, Unavailable
from taskmill.model.backoff import Backoff

PROTOCOL: Final = Subprotocol("graphql-transport-ws")
BACKOFF: Final = Backoff(base=0.2, cap=15.0)
MESSAGE_MOST: Final = 4 * 1024 * 1024
"""Bytes of one message."""
PATIENCE: Final = 300.0
"""Seconds for which a connection that was lost is sought again."""
STEADY: Final = 10.0
"""Seconds after which a connection that brought nothing was a good one all the same."""
_TOKEN_ENDED: Final = frozenset({4401, 4403})
_NEVER: Final = frozenset({1003, 1009, 4400, 4406, 4409})
"""Close codes that say that we do not speak as the API does: trying again would not help."""
_STATUS_LATER: Final = frozenset({408, 429, 500, 502, 503, 504})
_CODES_LATER: Final = frozenset({"UNAVAILABLE", "RATE_LIMITED", "TIMEOUT"})


class WatchCalls(Calls):
    async def watch(
        self, task_id: str | None = None, *, patience: float = PATIENCE
    ) -> AsyncIterator[TaskSummary]:
        """Each change of the caller's tasks (all for an ADMIN), until the loop is left; or of one task, its present
        state first, until it has ended.

        A connection that breaks, or that the API ends because we read too slowly, is made anew: of one task nothing
        is missed then; of all tasks, the changes meanwhile are. The last state of a task always comes, states in
        between may not. Unavailable when a lost connection does not come back within `patience` seconds (the first
        one: within the client's `timeout`). Unauthenticated, NotFound as usual.
        """
        last: TaskSummary | None = None
        async with aclosing(_updates(self._http, task_id, patience)) as updates:
            async for task in updates:
                if task_id is not None and task == last:
                    continue  # a new connection begins with the state that we know
                last = task
                yield task
                if task_id is not None and task.status.final:
                    return


async def _updates(http: Http, task_id: str | None, patience: float) -> AsyncGenerator[TaskSummary, None]:
    """The updates of one connection after the other."""
    rng = Random()
    deadline = monotonic() + http.timeout
    failures = 0
    while True:
        began, served = math.inf, False
        try:
            async with aclosing(_connection(http, task_id)) as updates:
                async for task in updates:
                    if task is None:
                        began = monotonic()
                    else:
                        served = True
                        yield task
        except _Lost as lost:
            if served or monotonic() - began > STEADY:
                failures, deadline = 0, monotonic() + patience
            failures += 1
            wait = BACKOFF.delay(failures, rng)
            if monotonic() + wait >= deadline:
                raise Unavailable(f"{http.endpoint}: no live updates: {lost}") from None
            await asyncio.sleep(wait)


class _Lost(Exception):
    """The connection is gone; another may do better."""


async def _connection(http: Http, task_id: str | None) -> AsyncGenerator[TaskSummary | None, None]:
    """The updates of one connection; first None, when it stands."""
    url = http.endpoint.replace("http", "ws", 1)
    try:
        async with connect(
            url, subprotocols=[PROTOCOL], open_timeout=http.timeout, max_size=MESSAGE_MOST
        ) as socket:
            await _begin(socket, http, task_id)
            yield None
            async for message in socket:
                task = await _read(socket, message)
                if task is not None:
                    yield task
            raise _closed(socket)
    except InvalidStatus as error:
        status = error.response.status_code
        if status in _STATUS_LATER:
            raise _Lost(f"HTTP {status}") from None
        if status in (401, 403):
            raise Forbidden(f"{url} refused the connection: HTTP {status}") from None
        raise TaskmillError(f"{url} answered HTTP {status}: is the URL right?") from None
    except ConnectionClosed:
        raise _closed(socket) from None
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise _Lost(" ".join(str(error).split())[:200] or type(error).__name__) from None


async def _begin(socket: ClientConnection, http: Http, task_id: str | None) -> None:
    payload = {"Authorization": f"Bearer {http.token}"} if http.token else {}
    await socket.send(json.dumps({"type": "connection_init", "payload": payload}))
    async with asyncio.timeout(http.timeout):
        while (message := _parsed(await socket.recv()))["type"] != "connection_ack":
            if message["type"] == "ping":
                await socket.send('{"type": "pong"}')
    operation = {"query": documents.TASK_UPDATED, "variables": {"taskId": task_id}}
    await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": operation}))


async def _read(socket: ClientConnection, data: str | bytes) -> TaskSummary | None:
    message = _parsed(data)
    payload = message.get("payload")
    match message["type"]:
        case "next" if isinstance(payload, dict):
            if errors := payload.get("errors"):
                raise _fault(errors)
            return read(payload["data"]["taskUpdated"], TaskSummary)
        case "error":
            raise _fault(payload)
        case "complete":
            raise _Lost("the API ended the subscription")
        case "ping":
            await socket.send('{"type": "pong"}')
    return None


def _fault(errors: Any) -> Exception:
    error = error_of(errors)
    return _Lost(error.message) if error.code in _CODES_LATER else error


def _closed(socket: ClientConnection) -> Exception:
    code, reason = socket.close_code, socket.close_reason or ""
    if code in _TOKEN_ENDED:
        return Unauthenticated(reason or "the token does not hold (any more)")
    if code in _NEVER:
        return BadRequest(reason or f"the API closed the connection with code {code}")
    return _Lost(f"closed with code {code} {reason}".strip())


def _parsed(data: str | bytes) -> dict[str, Any]:
    try:
        message = json.loads(data)
    except ValueError:
        message = None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise TaskmillError("the API sent a message that is none of graphql-transport-ws")
    return message
