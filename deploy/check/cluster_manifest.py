"""What is applied to the cluster: k8s/deployment.yaml as it is, but for what a Kubernetes of 1.20 calls otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from deploy.check.kubernetes.manifest import MANIFEST, OURS, with_change
from deploy.check.stage import Broken
from taskmill import __version__

BETA = {"policy/v1": "policy/v1beta1", "autoscaling/v2": "autoscaling/v2beta2"}
APP = ("TASKMILL_APP: taskmill.handlers:app", "TASKMILL_APP: cluster_tasks:app")

MYSQL_IMAGE = "mysql:9.7"
MYSQL = """
apiVersion: v1
kind: Service
metadata: {{name: mysql}}
spec:
  selector: {{app: mysql}}
  ports: [{{port: 3306}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: mysql}}
spec:
  selector: {{matchLabels: {{app: mysql}}}}
  template:
    metadata: {{labels: {{app: mysql}}}}
    spec:
      containers:
        - name: mysql
          image: {image}
          args: [--skip-log-bin, --innodb-flush-method=nosync, --mysqlx=OFF]
          env:
            - {{name: MYSQL_DATABASE, value: taskqueue}}
            - {{name: MYSQL_USER, value: taskuser}}
            - {{name: MYSQL_PASSWORD, value: {password}}}
            - {{name: MYSQL_ROOT_PASSWORD, value: {password}}}
          readinessProbe:
            exec: {{command: [mysqladmin, ping, --host=127.0.0.1, --silent]}}
            timeoutSeconds: 5
"""
"""The MySQL that the manifest wants to find. Its data goes with the pod, so it waits for no disk: how long a slow one may hang is
not what is tried here."""


@dataclass(frozen=True)
class Plant:
    """An error put into the Deployment of a component."""

    component: str
    old: str
    new: str
    reason: str
    """Words of the state or of the events of its pods."""


def edition(root: Path, version: str, plants: Iterable[Plant] = ()) -> str:
    """The manifest of a release, with the handlers of this stage."""
    text = (root / MANIFEST).read_text(encoding="utf-8")
    for stable, beta in BETA.items():
        text = text.replace(f"apiVersion: {stable}\n", f"apiVersion: {beta}\n")
    for old, new in (
        APP,
        (f"image: {OURS}:{__version__}", f"image: {OURS}:{version}"),
        (_job(__version__), _job(version)),
    ):
        if old not in text:
            raise Broken(f"{MANIFEST}: expected {old!r}")
        text = text.replace(old, new)
    for plant in plants:
        text = text.replace(*with_change(text, plant.component, plant.old, plant.new))
    return text


def following(version: str) -> str:
    """The next patch release."""
    major, minor, patch = version.split(".")
    return f"{major}.{minor}.{int(patch) + 1}"


def _job(version: str) -> str:
    return f"name: task-queue-migrate-{version.replace('.', '-')}"
