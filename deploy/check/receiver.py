"""Stands where alerts go: a webhook that remembers what Alertmanager sent it.

    with receiver() as got:                        # or receiver("0.0.0.0", 9095), for containers
        Path("webhook-url").write_text(got.url)    # what alertmanager.yml reads
        ...                                        # break something
        got.wait("TaskmillJobDown", {"job": "taskmill-worker"})
        ...                                        # mend it
        got.wait("TaskmillJobDown", {"job": "taskmill-worker"}, status="resolved")

Alerts wait for as long as their rule says (`for`), and 10 s more in Alertmanager: 1.5 to 3 minutes, unless it is told.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from deploy.check.stage import Broken

PATIENCE: Final = 300.0
LARGEST: Final = 1 << 20
NONE: Final[Mapping[str, str]] = {}
Alert = dict[str, Any]


class Receiver:
    def __init__(self, url: str) -> None:
        self.url = url
        self.alerts: list[Alert] = []
        """Each time that one was sent, as Alertmanager has them: status, labels, annotations."""
        self._came = threading.Condition()

    def took(self, alerts: list[Alert]) -> None:
        with self._came:
            self.alerts += alerts
            self._came.notify_all()

    def wait(
        self,
        alert: str,
        labels: Mapping[str, str] = NONE,
        *,
        status: str = "firing",
        timeout: float = PATIENCE,
    ) -> Alert:
        """The alert, once it was sent with this status and these labels; Broken when it does not come."""
        wanted = {"alertname": alert, **labels}.items()
        until = time.monotonic() + timeout
        with self._came:
            while True:
                for found in reversed(self.alerts):
                    if found["status"] == status and wanted <= found["labels"].items():
                        return found
                if not self._came.wait(until - time.monotonic()):
                    raise Broken(f"{alert} {dict(labels)} ({status}) did not reach the receiver: {self}")

    def names(self, status: str = "firing") -> set[str]:
        return {alert["labels"]["alertname"] for alert in self.alerts if alert["status"] == status}

    def __str__(self) -> str:
        came = [f"{a['labels']['alertname']} ({a['status']})" for a in self.alerts]
        return f"it has got {', '.join(came) or 'nothing'}"


@contextmanager
def receiver(host: str = "127.0.0.1", port: int = 0) -> Iterator[Receiver]:
    """Listens there, until the `with` ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = min(int(self.headers.get("Content-Length", 0)), LARGEST)
            got.took(json.loads(self.rfile.read(length))["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Not on standard error: it is the check's."""

    server = ThreadingHTTPServer((host, port), Handler)
    got = Receiver(f"http://{host}:{server.server_address[1]}/")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield got
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
