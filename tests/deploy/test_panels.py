"""Panels are asked of a Prometheus: what brings no value is named. The Prometheus is a stand-in here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest

from deploy.check import panels
from deploy.check.stage import Broken

BOARD = {
    "title": "Board",
    "templating": {
        "list": [
            {
                "name": "job",
                "type": "query",
                "allValue": "taskmill-.+",
                "query": {"query": 'label_values(up{job=~"taskmill-.+"}, job)'},
            }
        ]
    },
    "panels": [
        {"title": "A row"},
        {
            "title": "Rate",
            "targets": [{"refId": "A", "expr": 'rate(tasks{job=~"$job"}[$__rate_interval])'}],
        },
        {"title": "Total", "targets": [{"refId": "B", "expr": "sum(tasks)", "instant": True}]},
    ],
}


class Stand(ThreadingHTTPServer):
    """Answers each query with the values that `values` has for it, and each list of labels with `jobs`."""

    values: dict[str, list[str]]
    jobs: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Stand

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path.startswith("/api/v1/label/"):
            data: object = self.server.jobs
        else:
            values = [[1.0, value] for value in self.server.values.get(parse_qs(url.query)["query"][0], [])]
            one: dict[str, object] = {"metric": {}, "values": values, "value": values[0] if values else None}
            data = {"result": [one] if values else []}
        body = json.dumps({"status": "success", "data": data}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / panels.DASHBOARDS
    folder.mkdir(parents=True)
    (folder / "board.json").write_text(json.dumps(BOARD))
    return tmp_path


@pytest.fixture
def prometheus() -> Iterator[Stand]:
    with Stand(("127.0.0.1", 0), Answers) as server:
        server.values = {'rate(tasks{job=~"taskmill-.+"}[60s])': ["NaN", "0.5"], "sum(tasks)": ["3"]}
        server.jobs = ["taskmill-api"]
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def check(root: Path, prometheus: Stand) -> int:
    return panels.check(prometheus.url, window=300, scrape=15, patience=0, root=root)


def test_every_query_brings_a_value(root: Path, prometheus: Stand) -> None:
    """Of panels and of variables: with All in place of a variable, and a rate over four scrapes."""
    assert check(root, prometheus) == 3


def test_a_query_without_an_answer(root: Path, prometheus: Stand) -> None:
    """Is named with its dashboard, panel and text."""
    del prometheus.values["sum(tasks)"]
    with pytest.raises(Broken, match=r"Board: Total \(B\): sum\(tasks\)"):
        check(root, prometheus)


def test_a_value_that_is_no_number(root: Path, prometheus: Stand) -> None:
    """Is no value: 0/0 all the time draws nothing."""
    prometheus.values["sum(tasks)"] = ["NaN"]
    with pytest.raises(Broken, match="Total"):
        check(root, prometheus)


def test_a_variable_without_values(root: Path, prometheus: Stand) -> None:
    """Is named too: its list in Grafana would be empty."""
    prometheus.jobs = []
    with pytest.raises(Broken, match="label_values"):
        check(root, prometheus)


def test_nobody_answers(root: Path, prometheus: Stand) -> None:
    """Says where it asked."""
    prometheus.shutdown()
    prometheus.server_close()
    with pytest.raises(Broken, match=prometheus.url):
        check(root, prometheus)
