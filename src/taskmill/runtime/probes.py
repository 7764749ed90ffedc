"""What a process shows of itself: its metrics, and the small server of /metrics, /live and /ready.

Every process has one `Probes` with a registry of its own; nothing is shared between processes, and Prometheus adds
them up. The api serves them at its own port; workers and schedulers start a `ProbeServer`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from taskmill.errors import StartError
from taskmill.model.state import Priority, Verb

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
"""Of what `Probes.render` returns."""

LABEL_LIMIT: Final = 100
"""Distinct queues, and distinct types, that get a label of their own: users choose these names, and each one costs
a time series in every process and in Prometheus."""

RUN_BUCKETS: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
WAIT_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)
VERB_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
REQUEST_BUCKETS: Final = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
POOL_BUCKETS: Final = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)


class Measured(Gauge):
    """A gauge without labels that has no value until it was set, and none after `clear`: what the leading scheduler
    measures for all, or what only some processes have, would be a false zero in every other process."""

    known = False

    def set(self, value: float) -> None:
        super().set(value)
        self.known = True

    def set_function(self, f: Callable[[], float]) -> None:
        super().set_function(f)
        self.known = True

    def clear(self) -> None:
        self.known = False

    def collect(self) -> Iterable[Metric]:
        for metric in super().collect():
            if not self.known:
                metric.samples.clear()
            yield metric


class Probes:
    """The metrics of one process. Attributes are named as the metrics, without the suffix `_total`. Seconds, rows."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the number of series, and nobody asks for them
        self.registry = registry if registry is not None else CollectorRegistry()
        self._queues: set[str] = set()
        self._types: set[str] = set()
        self._add_tasks()
        self._add_workings()
        self._add_api()
        self._add_database()
        PlatformCollector(registry=self.registry)
        ProcessCollector(registry=self.registry)

    def _add_tasks(self) -> None:
        self.tasks_created = self._counter("tasks_created", "Tasks accepted.", "priority")
        for priority in Priority:
            self.tasks_created.labels(priority.name)
        self.tasks_completed = self._counter("tasks_completed", "Tasks that ended COMPLETED.")
        self.tasks_failed = self._counter("tasks_failed", "Tasks that ended FAILED.")
        self.tasks_active = self._gauge("tasks_active", "Tasks that this process is running now.")
        self.worker_slots = self._measured("worker_slots", "Tasks that this worker runs at a time.")
        self.task_retries = self._counter("task_retries", "Runs that failed and will be tried again.")
        self.task_rescues = self._counter(
            "task_rescues", "Runs whose lease ran out, taken from their worker."
        )
        self.task_duration_seconds = self._histogram(
            "task_duration_seconds", "Time in the handler, per run.", RUN_BUCKETS, "type"
        )
        self.task_wait_seconds = self._histogram(
            "task_wait_seconds", "Time from becoming eligible to the claim.", WAIT_BUCKETS
        )
        self.schedule_fires = self._counter(
            "schedule_fires", "Times at which schedules fired, by what became of them.", "outcome"
        )
        self.queue_size = self._gauge("queue_size", "Tasks that are QUEUED.", "queue", "priority")
        self.queue_oldest_seconds = self._gauge(
            "queue_oldest_seconds", "How long the oldest QUEUED task has waited.", "queue"
        )

    def _add_workings(self) -> None:
        self.stale_writes = self._counter(
            "stale_writes",
            "Writes refused because their run has ended, or the task belongs to another by now.",
            "verb",
        )
        for verb in (Verb.SUBMIT, Verb.SETTLE, Verb.RENEW):
            self.stale_writes.labels(verb.value)
        self.verb_seconds = self._histogram("verb_seconds", "Time of one batch in SQL.", VERB_BUCKETS, "verb")
        self.verb_rows = self._counter("verb_rows", "Rows written by batches.", "verb")
        self.index_refills = self._counter("index_refills", "Times the index was filled from SQL.")
        self.index_repairs = self._counter("index_repairs", "Entries of the index that verify put right.")
        self.index_errors = self._counter("index_errors", "Calls of the index that failed.")
        self.index_up = self._measured(
            "index_up", "1 while the index takes part, 0 while tasks are dispatched from SQL alone."
        )
        self.journal_lag_rows = self._measured("journal_lag_rows", "Journal rows that are not folded yet.")
        self.journal_lag_seconds = self._measured(
            "journal_lag_seconds", "Age of the oldest row not folded yet."
        )
        self.scheduler_leading = self._measured(
            "scheduler_leading", "1 while this scheduler leads, 0 while it waits."
        )
        self.loop_failures = self._counter("loop_failures", "Turns of a service loop that failed.", "loop")
        self.logs_dropped = self._counter(
            "logs_dropped", "Lines of handlers dropped because SQL was too slow."
        )
        self.workers_live = self._measured("workers_live", "Workers seen within TASKMILL_WORKER_TTL.")
        self.taskmill_info = self._gauge("taskmill_info", "1, labelled with what runs.", "version")

    def _add_api(self) -> None:
        self.api_requests = self._counter(
            "api_requests",
            "Operations, and requests refused before they became one: ok, refused (the caller's fault), failed (ours). "
            "A subscription counts when it ends.",
            "operation",
            "outcome",
        )
        self.api_request_seconds = self._histogram(
            "api_request_seconds",
            "Time of an operation, but a subscription, from its document to its result.",
            REQUEST_BUCKETS,
            "operation",
        )
        self.api_errors = self._counter("api_errors", "Errors that callers were told.", "code")
        self.rate_limited = self._counter(
            "rate_limited",
            "Operations, logins and registrations refused because there were too many.",
            "limit",
        )
        self.feed_clients = self._gauge("feed_clients", "Open subscriptions.")

    def _add_database(self) -> None:
        self.database_connections = self._gauge(
            "database_connections",
            "Connections in_use, idle (open), and unopened (that may still be opened): together what the pool may have.",
            "pool",
            "state",
        )
        self.database_wait_seconds = self._histogram(
            "database_wait_seconds", "Time that a unit of work waited for a connection.", POOL_BUCKETS, "pool"
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _measured(self, name: str, text: str) -> Measured:
        return Measured(name, text, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    def forget_measured(self) -> None:
        """What is measured for all belongs to the process that leads, and to no other."""
        queues, lags = (
            (self.queue_size, self.queue_oldest_seconds),
            (self.journal_lag_rows, self.journal_lag_seconds),
        )
        for gauge in (*queues, *lags, self.workers_live):
            gauge.clear()

    def queue_label(self, name: str) -> str:
        """The label for a queue: its name, or "other" once LABEL_LIMIT different ones were seen."""
        return _bounded(self._queues, name)

    def type_label(self, name: str | None) -> str:
        """As `queue_label`, for a task's type; "none" for a task without one."""
        return _bounded(self._types, name) if name is not None else "none"

    def render(self) -> bytes:
        """All metrics in the text format of Prometheus, version 0.0.4 (CONTENT_TYPE)."""
        return generate_latest(self.registry)


def _bounded(seen: set[str], name: str) -> str:
    if name in seen:
        return name
    if len(seen) >= LABEL_LIMIT:
        return "other"
    seen.add(name)
    return name


class ProbeServer:
    """Serves /metrics, /live and /ready of a process without an API. A service: `run` until `stop`.

    /live answers as long as the event loop turns: it asks nothing and nobody, so an outage of SQL or Redis never
    makes an orchestrator kill healthy processes. /ready answers 503 with the reason while `ready` returns one; it is
    called on the event loop and tells what the process knows already, without waiting.
    """

    name = "probes"

    HEAD_LIMIT: Final = 8192
    """Bytes of a request's head."""
    TIMEOUT: Final = 5.0
    """Seconds for a whole exchange."""
    CLIENTS: Final = 32

    def __init__(self, probes: Probes, host: str, port: int, ready: Callable[[], str | None]) -> None:
        self.probes = probes
        self.host = host
        self.port = port
        """What it listens on; 0 takes a free one, and is replaced by it in `bind`."""
        self._ready = ready
        self._server: asyncio.Server | None = None
        self._stopped = asyncio.Event()
        self._clients: set[asyncio.Task[None]] = set()

    async def bind(self) -> None:
        """Takes the port, or raises StartError: at start, before anything else is started."""
        try:
            self._server = await asyncio.start_server(
                self._accept, self.host, self.port, limit=self.HEAD_LIMIT
            )
        except (OSError, OverflowError) as error:
            raise StartError(
                f"cannot serve metrics at {self.host}:{self.port} ({_reason(error)}): "
                "give another --metrics-port, or 0 for none"
            ) from None
        self.port = self._server.sockets[0].getsockname()[1]

    async def run(self) -> None:
        if self._server is None:
            await self.bind()
        assert self._server is not None
        try:
            await self._stopped.wait()
        finally:
            self._server.close()
            for client in self._clients:
                client.cancel()
            await asyncio.gather(*self._clients, return_exceptions=True)

    def stop(self) -> None:
        self._stopped.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= self.CLIENTS:
            writer.transport.abort()
            return
        client = asyncio.get_running_loop().create_task(self._exchange(reader, writer))
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one response, and the connection is closed."""
        try:
            async with asyncio.timeout(self.TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self.respond(head))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a client that went away, is slow, or speaks something else
        except Exception:  # noqa: BLE001 (one bad answer must not stop the others)
            structlog.get_logger(__name__).exception("probe failed")
        finally:
            with suppress(RuntimeError):  # the loop is closed already
                writer.transport.abort()

    def respond(self, head: bytes) -> bytes:
        """The whole response to a request's head."""
        method, _, rest = head.split(b"\r\n", 1)[0].decode("latin-1").partition(" ")
        target, _, version = rest.partition(" ")
        if not version.startswith("HTTP/1."):
            return _response("400 Bad Request", b"HTTP/1.1 only\n")
        if method not in ("GET", "HEAD"):
            return _response("405 Method Not Allowed", b"GET or HEAD\n", extra="Allow: GET, HEAD\r\n")
        response = self._resource(target.partition("?")[0])
        return response if method == "GET" else response[: response.index(b"\r\n\r\n") + 4]

    def _resource(self, path: str) -> bytes:
        match path:
            case "/metrics":
                return _response("200 OK", self.probes.render(), content_type=CONTENT_TYPE)
            case "/live":
                return _response("200 OK", b"live\n")
            case "/ready":
                reason = self._ready()
                if reason is None:
                    return _response("200 OK", b"ready\n")
                return _response("503 Service Unavailable", f"not ready: {reason}\n".encode())
            case _:
                return _response("404 Not Found", b"/metrics, /live or /ready\n")


def _response(
    status: str, body: bytes, *, content_type: str = "text/plain; charset=utf-8", extra: str = ""
) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        f"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{extra}Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + body


def _reason(error: OSError | OverflowError) -> str:
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number).lower() if number else "no such port"
