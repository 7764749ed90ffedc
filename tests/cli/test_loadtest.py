"""`taskmill load-test` against an API that behaves as a test says."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from taskmill.cli import main
from taskmill.cli.loadtest import Plan, Report, percentile
from taskmill.errors import ConfigError
from tests.support import free_port

BLOCK = r"""=== Load Test Results ===
Total tasks: (\d+)
Successful: (\d+)
Failed: (\d+)
Duration: (\d+\.\d\d)s
Throughput: (\d+\.\d\d) tasks/second
"""


class FakeApi:
    """Answers the four documents. `fate`: what becomes of the n-th task: completed, failed, refused, lost, limited or
    500."""

    def __init__(self, fate: Callable[[int], str] = lambda n: "completed", role: str = "USER") -> None:
        self.fate = fate
        self.role = role
        self.limited = 0
        self.users: list[dict[str, str]] = []
        self.inputs: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        # A user that was there before, for the ADMIN who sees all.
        self.ended = {"completed": 7, "failed": 1, "cancelled": 0}

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        query, variables = body["query"], body["variables"]
        if "register(" in query:
            self.users.append(variables["input"])
            return JSONResponse({"data": {"register": {"accessToken": "T", "user": {"role": self.role}}}})
        self.tokens.add(request.headers.get("authorization"))
        if "createTask" in query:
            return self._create(variables["input"])
        if "taskStats" in query:
            return JSONResponse({"data": {"taskStats": {"total": 0, **self.ended}}})
        after = int(variables["after"] or 0)
        at = ("2026-11-24T09:00:00.000Z", "2026-11-24T09:00:00.250Z")
        page = [{"id": str(n), "createdAt": at[0], "startedAt": at[1]} for n in range(after + 1, after + 101)]
        return JSONResponse(
            {"data": {"tasks": [task for task in page if int(task["id"]) <= len(self.inputs)]}}
        )

    def _create(self, task: dict[str, Any]) -> Response:
        self.inputs.append(task)
        fate = self.fate(len(self.inputs))
        if fate == "refused":
            error = {"message": "no", "extensions": {"code": "BAD_USER_INPUT"}}
            return JSONResponse({"data": None, "errors": [error]})
        if fate == "limited":
            self.inputs.pop()
            self.limited += 1
            return JSONResponse({"data": None, "errors": [{"message": "often"}]}, 429, {"Retry-After": "1"})
        if fate == "500":
            return PlainTextResponse("oops", status_code=500)
        if fate in self.ended:
            self.ended[fate] += 1
        return JSONResponse({"data": {"createTask": {"id": str(len(self.inputs))}}})


@contextmanager
def serving(api: FakeApi) -> Iterator[int]:
    """The port of a real server with this API, in a thread."""
    app = Starlette(routes=[Route("/graphql", api.answer, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", lifespan="off"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)


def run(api: FakeApi, capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with serving(api) as port:
        status = main(["load-test", "--url", f"http://localhost:{port}", *arguments])
    return status, *capfd.readouterr()


def test_the_block_of_the_description(capfd: pytest.CaptureFixture[str]) -> None:
    """It ends with SEED.md's lines exactly, then the latencies; status 0 when all completed."""
    api = FakeApi()
    status, out, err = run(api, capfd, "--tasks", "250", "--concurrency", "8")
    found = re.fullmatch(BLOCK + r"\nCreation latency: p50 .* \(of 250\)\nStart latency: (.*)\n", out)
    assert found, out
    assert (status, err) == (0, "")
    assert found.groups()[:3] == ("250", "250", "0")
    assert float(found[5]) == pytest.approx(250 / float(found[4]), rel=0.1)
    assert found[6] == "p50 250.0 ms, p95 250.0 ms, p99 250.0 ms (of 250)"


def test_who_asks_and_what_for(capfd: pytest.CaptureFixture[str]) -> None:
    """A new user with a random password, its token in every request, type and payload as given."""
    api = FakeApi()
    run(api, capfd, "--tasks", "3", "--type", "WEBHOOK", "--payload", '{"url": "x"}')
    (user,) = api.users
    assert user["email"].startswith("load-test-")
    assert len(user["password"]) >= 24
    assert api.tokens == {"Bearer T"}
    assert [(task["type"], task["payload"]) for task in api.inputs] == [("WEBHOOK", {"url": "x"})] * 3
    assert len({task["title"] for task in api.inputs}) == 3


@pytest.mark.parametrize(
    ("fate", "trouble"),
    [
        ("failed", "2 × task ended FAILED"),
        ("cancelled", "2 × task ended CANCELLED"),
        ("refused", "2 × BAD_USER_INPUT no"),
        ("500", "2 × HTTP 500, and no JSON"),
    ],
)
def test_failures_are_counted_and_told(fate: str, trouble: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Refused or failed: not successful, told on standard error, and status 1."""
    status, out, err = run(FakeApi(lambda n: fate if n in (2, 5) else "completed"), capfd, "--tasks", "20")
    found = re.match(BLOCK, out)
    assert found, out
    assert (status, *found.groups()[:3]) == (1, "20", "18", "2")
    assert trouble in err


def test_a_limit_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    """Told to come again later it does: no task fails, the latency is that of the answer, and it says that it waited."""
    api = FakeApi()
    api.fate = lambda n: "limited" if n == 3 and api.limited < 2 else "completed"
    status, out, err = run(api, capfd, "--tasks", "20", "--concurrency", "1")
    assert (status, "Successful: 20" in out) == (0, True)
    assert "2 × waited: " in err
    assert "TASKMILL_RATE_USER" in err
    latency = re.search(r"Creation latency: .* p99 ([\d.]+) ms", out)
    assert latency
    duration = re.search(r"Duration: ([\d.]+)s", out)
    assert duration
    assert float(latency[1]) / 1000 < float(duration[1]) / 2


def test_a_task_that_never_ends_is_bounded(capfd: pytest.CaptureFixture[str]) -> None:
    """After the timeout it counts as failed."""
    api = FakeApi(lambda n: "lost" if n == 1 else "completed")
    status, out, err = run(api, capfd, "--tasks", "3", "--timeout", "1")
    assert (status, "Failed: 1" in out, "not done 1 s after" in err) == (1, True, True)


def test_the_first_admin_is_warned_about(capfd: pytest.CaptureFixture[str]) -> None:
    """On an empty installation the test's user takes the role, and its statistics count other tasks too."""
    status, out, err = run(FakeApi(role="ADMIN"), capfd, "--tasks", "3")
    assert (status, "Successful: 3" in out, "set-role" in err) == (0, True, True)


def test_no_progress_bar_where_nobody_watches(capfd: pytest.CaptureFixture[str]) -> None:
    """Without a terminal there is the report and nothing else."""
    _, out, err = run(FakeApi(), capfd, "--tasks", "3")
    assert out.startswith("=== Load Test Results ===\n")
    assert err == ""


def test_nothing_there(capfd: pytest.CaptureFixture[str]) -> None:
    """One line that says how to start it, status 3."""
    assert main(["load-test", "--url", f"http://127.0.0.1:{free_port()}"]) == 3
    out, err = capfd.readouterr()
    assert (out, err.count("\n"), "taskmill up" in err) == ("", 1, True)


def test_something_else_there(capfd: pytest.CaptureFixture[str]) -> None:
    """An HTTP server that is no Taskmill: one line, status 3."""
    with serving(FakeApi()) as port:
        assert main(["load-test", "--url", f"http://127.0.0.1:{port}/elsewhere"]) == 3
    assert "takes no new user" in capfd.readouterr().err


def test_the_default_address_is_ours(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """PORT says where."""
    api = FakeApi()
    with serving(api) as port:
        monkeypatch.setenv("PORT", str(port))
        assert main(["load-test", "--tasks", "2"]) == 0
    assert len(api.inputs) == 2


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://localhost:3000", "http://localhost:3000/graphql"),
        ("http://localhost:3000/graphql/", "http://localhost:3000/graphql"),
        ("https://127.0.0.1/tm", "https://127.0.0.1/tm/graphql"),
        ("http://[::1]:3000", "http://[::1]:3000/graphql"),
        ("http://127.8.9.1:3000", "http://127.8.9.1:3000/graphql"),
    ],
)
def test_loopback_addresses(url: str, endpoint: str) -> None:
    """Each form of this machine is taken."""
    assert plan(url).endpoint == endpoint


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1", "http://example.com", "http://localhost.evil.example", "http://0.0.0.0"]
)
def test_other_machines_need_a_word(url: str) -> None:
    """Only with --allow-remote."""
    with pytest.raises(ConfigError, match="--allow-remote"):
        plan(url)
    assert plan(url, allow_remote=True).endpoint == f"{url}/graphql"


def plan(url: str, **more: Any) -> Plan:
    options: dict[str, Any] = dict.fromkeys(("tasks", "concurrency", "type", "payload", "timeout"))
    return Plan.parse(url=url, **{"allow_remote": False, **options, **more})


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [(1, 0.5, 1), (2, 0.5, 1), (100, 0.95, 95), (100, 0.99, 99), (10, 0.99, 10), (3, 1, 3)],
)
def test_percentiles_by_nearest_rank(count: int, share: float, expected: float) -> None:
    """The smallest value that the share does not exceed, whatever the order."""
    assert percentile(list(range(count, 0, -1)), share) == expected


def test_the_report_of_nothing() -> None:
    """No creation, no duration: no division by zero."""
    text = Report(3).text()
    assert "Failed: 3" in text
    assert "Creation latency: not known" in text
    assert json.dumps(text)
