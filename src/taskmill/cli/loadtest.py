"""`taskmill load-test`: tasks over HTTP as a client sends them, and how fast they went.

A new user is registered, so that `taskStats` counts these tasks and no others.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import secrets
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from taskmill.cli import reading
from taskmill.client.http import endpoint
from taskmill.errors import ConfigError, StartError

REGISTER: Final = (
    "mutation Register($input: RegisterInput!) { register(input: $input) { accessToken user { role } } }"
)
CREATE: Final = "mutation Create($input: CreateTaskInput!) { createTask(input: $input) { id } }"
STATS: Final = "query Stats { taskStats { total completed failed cancelled } }"
STARTS: Final = "query Starts($after: ID) { tasks(limit: 100, after: $after) { id createdAt startedAt } }"
SAMPLE: Final = 10_000
"""Tasks whose start latency is looked at."""
TIMEOUT: Final = 30.0
"""Seconds for one request."""
POLL: Final = 0.1
"""Seconds between two looks at the statistics."""
UNANSWERED_LIMIT: Final = 50
"""Requests in a row without an answer: then nobody sends more."""
LIMITED: Final = 429
WAIT_LIMIT: Final = 120
"""Seconds that one request waits, when the API says so, before it counts as refused."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. `parse` makes one of what the command line says."""

    tasks: int
    concurrency: int
    endpoint: str
    type: str | None
    payload: Any
    timeout: float

    @classmethod
    def parse(
        cls,
        *,
        tasks: str | None,
        concurrency: str | None,
        url: str,
        type: str | None,
        payload: str | None,
        timeout: str | None,
        allow_remote: bool,
    ) -> Self:
        """ConfigError, in one line, names the option that is wrong."""
        try:
            content = json.loads(payload) if payload is not None else {"source": "load-test"}
        except ValueError:
            raise ConfigError("--payload: expected JSON, such as '{\"n\": 1}'") from None
        return cls(
            tasks=reading.number("--tasks", tasks, 1000, 1, 1_000_000),
            concurrency=reading.number("--concurrency", concurrency, 10, 1, 1000),
            endpoint=_endpoint(url, allow_remote=allow_remote),
            type=type,
            payload=content,
            timeout=float(reading.number("--timeout", timeout, 300, 1, 86400)),
        )


def _endpoint(url: str, *, allow_remote: bool) -> str:
    try:
        found = endpoint(url)
    except ConfigError:
        raise ConfigError("--url: expected one such as http://localhost:3000") from None
    host = urlsplit(found).hostname or ""
    if not allow_remote and not _is_loopback(host):
        raise ConfigError(f"--url: {host} is another machine: give --allow-remote when that is meant")
    return found


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(slots=True)
class Report:
    """What came of it. Seconds."""

    tasks: int
    completed: int = 0
    duration: float = 0.0
    creations: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    troubles: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """All that did not complete: refused, failed, or not done in time."""
        return self.tasks - self.completed

    def text(self) -> str:
        """The block of the description, then the latencies."""
        lines = [
            "=== Load Test Results ===",
            f"Total tasks: {self.tasks}",
            f"Successful: {self.completed}",
            f"Failed: {self.failed}",
            f"Duration: {self.duration:.2f}s",
            f"Throughput: {self.tasks / max(self.duration, 1e-9):.2f} tasks/second",
            "",
            f"Creation latency: {_percentiles(self.creations)}",
            f"Start latency: {_percentiles(self.starts)}",
        ]
        return "\n".join(lines)


def _percentiles(values: Sequence[float]) -> str:
    if not values:
        return "not known"
    p50, p95, p99 = (percentile(values, share) * 1000 for share in (0.5, 0.95, 0.99))
    return f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms (of {len(values)})"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of the values do not exceed (nearest rank). `values` is not empty."""
    ranked = sorted(values)
    rank = -(-len(ranked) * share // 1)
    return ranked[max(int(rank), 1) - 1]


async def run(plan: Plan) -> int:
    """Runs it and prints the report; 1 when a task did not complete."""
    report = await measure(plan)
    print(report.text())
    for trouble, times in report.troubles.most_common(5):
        print(f"{times} × {trouble}", file=sys.stderr)
    return 1 if report.failed else 0


async def measure(plan: Plan) -> Report:
    """StartError when there is no API at the address, or it takes no new user."""
    limits = httpx2.Limits(max_connections=plan.concurrency, max_keepalive_connections=plan.concurrency)
    async with httpx2.AsyncClient(limits=limits, timeout=TIMEOUT, trust_env=False) as client:
        api = Api(client, plan.endpoint)
        await api.register()
        try:
            return await LoadTest(api, plan).run()
        except (Refused, httpx2.HTTPError) as error:
            raise StartError(f"{plan.endpoint} does not tell its statistics: {error}") from None


class Refused(Exception):
    """The API answered with an error, or with something that is no answer of ours. Stays in this module."""


class Api:
    """The calls that a load test makes."""

    def __init__(self, client: httpx2.AsyncClient, endpoint: str) -> None:
        self._client = client
        self._endpoint = endpoint
        self._headers: dict[str, str] = {}
        self.waits = 0
        """How often a request waited, since the API takes so many of one user and no more."""

    async def call(self, document: str, **variables: Any) -> dict[str, Any]:
        """The data of the answer. Refused, with the API's own words; httpx2.HTTPError when there was no answer."""
        return (await self.timed(document, **variables))[0]

    async def timed(self, document: str, **variables: Any) -> tuple[dict[str, Any], float]:
        """The same, and the seconds that it took, without the time for which the API told it to wait."""
        left = WAIT_LIMIT
        while True:
            began = time.monotonic()
            response = await self._post(document, variables)
            took = time.monotonic() - began
            wait = _wait(response)
            if not 0 < wait <= left:
                return self._data(response), took
            self.waits += 1
            left -= wait
            await asyncio.sleep(wait)

    async def _post(self, document: str, variables: dict[str, Any]) -> httpx2.Response:
        body = {"query": document, "variables": variables}
        return await self._client.post(self._endpoint, json=body, headers=self._headers)

    def _data(self, response: httpx2.Response) -> dict[str, Any]:
        try:
            answer = response.json()
        except ValueError:
            raise Refused(f"HTTP {response.status_code}, and no JSON") from None
        if isinstance(answer, dict) and answer.get("errors"):
            error = answer["errors"][0]
            code = (error.get("extensions") or {}).get("code", "")
            raise Refused(f"{code} {error.get('message', '')}".strip()[:200])
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, dict):
            raise Refused(f"HTTP {response.status_code}, and no data")
        return data

    async def register(self) -> None:
        """As somebody new. The password is known to nobody afterwards."""
        name = f"load-test-{secrets.token_hex(6)}"
        user = {"email": f"{name}@example.com", "password": secrets.token_urlsafe(24), "name": name}
        try:
            data = await self.call(REGISTER, input=user)
        except httpx2.HTTPError as error:
            raise StartError(
                f"nothing answers at {self._endpoint} ({type(error).__name__}): start it with `taskmill up`"
            ) from None
        except Refused as error:
            raise StartError(f"{self._endpoint} takes no new user: {error}") from None
        registered = data["register"]
        self._headers = {"Authorization": f"Bearer {registered['accessToken']}"}
        if registered["user"]["role"] == "ADMIN":
            hint = "the load test's user is this empty installation's first, and so its ADMIN: make yours one with"
            print(f"{hint} `taskmill users set-role EMAIL ADMIN`", file=sys.stderr)


def _wait(response: httpx2.Response) -> int:
    """The seconds after which a refused request may come again; 0: it was not refused for that."""
    text = response.headers.get("Retry-After", "")
    limited = response.status_code == LIMITED and text.isascii() and text.isdigit() and len(text) <= 9
    return int(text) if limited else 0


class LoadTest:
    """One test, from the first task to the end of the last."""

    def __init__(self, api: Api, plan: Plan) -> None:
        self._api = api
        self._plan = plan
        self._report = Report(plan.tasks)
        self._numbers = iter(range(plan.tasks))
        self._accepted = 0
        self._unanswered = 0
        self._all_sent = asyncio.Event()

    async def run(self) -> Report:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        # The first user of an empty installation may be an ADMIN, whose statistics count everybody's tasks.
        before = Stats.of(await self._api.call(STATS))
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            created = progress.add_task("created", total=self._plan.tasks)
            finished = progress.add_task("finished", total=self._plan.tasks)
            began = time.monotonic()
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch(before, progress, finished))
                async with asyncio.TaskGroup() as creators:
                    for _ in range(min(self._plan.concurrency, self._plan.tasks)):
                        creators.create_task(self._create(progress, created))
                self._all_sent.set()
            self._report.duration = watching.result() - began
        await self._look_at_starts()
        if self._api.waits:
            why = "waited: the API takes so many operations of one user (TASKMILL_RATE_USER=0 lifts it)"
            self._report.troubles[why] = self._api.waits
        return self._report

    async def _create(self, progress: Progress, bar: TaskID) -> None:
        for number in self._numbers:
            task = {"title": f"Load test {number + 1}", "payload": self._plan.payload}
            if self._plan.type is not None:
                task["type"] = self._plan.type
            try:
                _, took = await self._api.timed(CREATE, input=task)
            except Refused as error:
                self._report.troubles[str(error)] += 1
            except httpx2.HTTPError as error:
                self._report.troubles[f"no answer ({type(error).__name__})"] += 1
                self._unanswered += 1
                if self._unanswered >= UNANSWERED_LIMIT:
                    return  # it is gone: what is left counts as failed
            else:
                self._report.creations.append(took)
                self._accepted += 1
                self._unanswered = 0
            progress.advance(bar)

    async def _watch(self, before: Stats, progress: Progress, bar: TaskID) -> float:
        """When the last task had ended, or waiting for it had."""
        deadline = float("inf")
        while True:
            if self._all_sent.is_set() and deadline == float("inf"):
                deadline = time.monotonic() + self._plan.timeout
            try:
                now = Stats.of(await self._api.call(STATS)).since(before)
            except (Refused, httpx2.HTTPError) as error:
                self._report.troubles[f"while waiting: {type(error).__name__} {error}"[:200]] += 1
                now = None
            if now is not None:
                progress.update(bar, completed=now.ended)
                self._report.completed = min(now.completed, self._accepted)
            if now is not None and self._all_sent.is_set() and now.ended >= self._accepted:
                self._count_failures(now)
                return time.monotonic()
            if time.monotonic() >= deadline:
                self._report.troubles[f"not done {self._plan.timeout:g} s after the last was created"] += 1
                return time.monotonic()
            await asyncio.sleep(POLL)

    def _count_failures(self, now: Stats) -> None:
        for name in ("failed", "cancelled"):
            if count := getattr(now, name):
                self._report.troubles[f"task ended {name.upper()}"] += count

    async def _look_at_starts(self) -> None:
        """How long the tasks had waited, as the database's clock has it."""
        after, left = None, min(self._accepted, SAMPLE)
        while left > 0:
            try:
                page = (await self._api.call(STARTS, after=after))["tasks"]
            except (Refused, httpx2.HTTPError) as error:
                self._report.troubles[f"reading start times: {error}"[:200]] += 1
                return
            for task in page[:left]:
                if task["startedAt"] is not None:
                    self._report.starts.append(_seconds_between(task["createdAt"], task["startedAt"]))
            left -= len(page)
            if not page:
                return
            after = page[-1]["id"]


@dataclass(frozen=True, slots=True)
class Stats:
    """How many tasks have ended, and how."""

    completed: int
    failed: int
    cancelled: int

    @classmethod
    def of(cls, data: dict[str, Any]) -> Self:
        stats = data["taskStats"]
        return cls(stats["completed"], stats["failed"], stats["cancelled"])

    def since(self, before: Stats) -> Stats:
        return Stats(
            self.completed - before.completed, self.failed - before.failed, self.cancelled - before.cancelled
        )

    @property
    def ended(self) -> int:
        return self.completed + self.failed + self.cancelled


def _seconds_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
