"""The webhook that stands where alerts go."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from deploy.check.receiver import Receiver, receiver
from deploy.check.stage import Broken


def send(got: Receiver, name: str, status: str = "firing", **labels: str) -> None:
    """As Alertmanager does."""
    alert: dict[str, Any] = {"status": status, "labels": {"alertname": name, **labels}, "annotations": {}}
    httpx2.post(got.url, json={"version": "4", "alerts": [alert]}, trust_env=False).raise_for_status()


def test_what_was_sent_is_found_by_name_labels_and_status() -> None:
    """The newest that fits."""
    with receiver() as got:
        send(got, "Down", job="api")
        send(got, "Down", "resolved", job="worker")
        assert got.wait("Down")["labels"]["job"] == "api"
        assert got.wait("Down", {"job": "worker"}, status="resolved")["status"] == "resolved"


@pytest.mark.parametrize(
    ("name", "labels", "status"), [("Up", {}, "firing"), ("Down", {"job": "x"}, "firing"), ("Down", {}, "resolved")]
)  # fmt: skip
def test_what_does_not_come_is_told(name: str, labels: dict[str, str], status: str) -> None:
    """With all that has come."""
    with receiver() as got:
        send(got, "Down", job="api")
        with pytest.raises(Broken, match=rf"{name} .*did not reach .* Down \(firing\)"):
            got.wait(name, labels, status=status, timeout=0.01)
