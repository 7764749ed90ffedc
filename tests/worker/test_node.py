"""examples/worker.mjs against an API that is played: what it does when no answer comes, and with a suspect."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.support import ROOT, Process, Processes, wait_until_sync

NODE = shutil.which("node")
HANG, AWAY = object(), object()

Answer = Callable[[dict[str, Any]], Any]


class Played:
    """An API whose answers a test gives, by call; HANG: none comes, AWAY: UNAVAILABLE. It remembers what was asked."""

    def __init__(self) -> None:
        self.lease = 30.0
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Answer] = {
            "registerWorker": lambda _: {"leaseSeconds": self.lease},
            "claimTasks": lambda _: HANG,
            "renewTasks": lambda given: [
                {**lease, "state": "HELD", "leaseSeconds": self.lease} for lease in given["leases"]
            ],
            "deregisterWorker": lambda _: True,
        }
        self.over = threading.Event()
        played = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                with suppress(ConnectionError):
                    played._answer(self)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        call = body["query"].partition("{ ")[2].partition("(")[0]
        given = body["variables"]["input"]
        self.asked.append((call, given))
        answer = self.answers.get(call, lambda _: {"state": "RECORDED"})(given)
        if given.get("again"):  # it ends
            answer = {"tasks": [], "waitedSeconds": 0}
        if answer is HANG:
            self.over.wait(60)
            return
        away = {"errors": [{"message": "away", "extensions": {"code": "UNAVAILABLE"}}]}
        text = json.dumps(away if answer is AWAY else {"data": {call: answer}}).encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        request.wfile.write(text)

    def brings(self, *tasks: dict[str, Any]) -> None:
        """One claim brings these; those after it wait."""
        once = iter([{"tasks": [task | {"leaseSeconds": self.lease} for task in tasks], "waitedSeconds": 0}])
        self.answers["claimTasks"] = lambda _: next(once, HANG)

    def calls(self) -> list[str]:
        return [call for call, _ in self.asked]

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def played() -> Iterator[Played]:
    if NODE is None:
        pytest.skip("node is not on PATH")
    api = Played()
    yield api
    api.close()


def node(processes: Processes, played: Played) -> Process:
    url = f"http://127.0.0.1:{played.server.server_port}"
    env = {"TASKMILL_API_URL": url, "TASKMILL_API_KEY": "played"}
    return processes.start([str(NODE), str(ROOT / "examples" / "worker.mjs")], env=env, name="node")


def run(n: int, type: str, suspect: bool = False, **payload: Any) -> dict[str, Any]:
    return {
        "id": f"task {n}",
        "fence": n,
        "type": type,
        "payload": payload,
        "attempt": 1,
        "suspect": suspect,
    }


def test_an_api_that_hangs(processes: Processes, played: Played) -> None:
    """No renewal is answered: the run is stopped before its lease is over, and nothing more is sent for it."""
    played.lease = 1.5
    played.brings(run(1, "WAIT", seconds=600))
    played.answers["renewTasks"] = lambda _: HANG
    worker = node(processes, played)
    worker.wait_for_output('"lost":true')
    assert "renewTasks" in played.calls()
    assert set(played.calls()) <= {"registerWorker", "claimTasks", "renewTasks"}


def test_a_renewal_that_failed(processes: Processes, played: Played) -> None:
    """It is tried again soon, not a quarter of a lease later: the run outlives an outage of half a lease."""
    played.lease = 6.0
    renewed: list[int] = []

    def renew(given: dict[str, Any]) -> Any:
        renewed.append(1)
        if len(renewed) < 4:
            return AWAY
        return [{**lease, "state": "HELD", "leaseSeconds": played.lease} for lease in given["leases"]]

    played.brings(run(1, "WAIT", seconds=600))
    played.answers["renewTasks"] = renew
    node(processes, played)
    wait_until_sync(lambda: len(renewed) >= 4)  # one that is lost is not renewed
    assert set(played.calls()) == {"registerWorker", "claimTasks", "renewTasks"}


def test_an_outcome_that_is_not_taken(processes: Processes, played: Played) -> None:
    """It is sent again for as long as the lease holds, which renewals prolong: not only for as long as the first one."""
    played.lease = 3.0
    renewed: list[int] = []

    def renew(given: dict[str, Any]) -> Any:
        renewed.append(1)
        return [{**lease, "state": "HELD", "leaseSeconds": played.lease} for lease in given["leases"]]

    def settle(_: dict[str, Any]) -> Any:
        return {"state": "RECORDED"} if len(renewed) > 3 else AWAY

    played.brings(run(1, "ECHO"))
    played.answers |= {"renewTasks": renew, "completeTask": settle}
    worker = node(processes, played)
    worker.wait_for_output('"settled"', 40)
    assert played.calls().count("completeTask") > 1
    operations = {given["operationId"] for call, given in played.asked if call == "completeTask"}
    assert len(operations) == 1


def test_a_suspect_runs_alone(processes: Processes, played: Played) -> None:
    """What came with it is given back unstarted: it would wait, and be suspected too if this process dies."""
    played.brings(run(1, "ECHO"), run(2, "ECHO", suspect=True))
    node(processes, played)
    wait_until_sync(lambda: {"completeTask", "releaseTask"} <= set(played.calls()))
    ended = {call: given["id"] for call, given in played.asked if call in ("completeTask", "releaseTask")}
    assert ended == {"completeTask": "task 2", "releaseTask": "task 1"}
