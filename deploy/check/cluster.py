"""The stage `cluster`: k8s/deployment.yaml on a Kubernetes of one node, from `kubectl apply` to an update under load.

First, with the machine's network: programs and images. Then, in a network without a way out: deploy/check/cluster_node.py.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.check import cluster_tasks
from deploy.check.cluster_build import programs
from deploy.check.cluster_manifest import MYSQL, MYSQL_IMAGE, Plant, edition, following
from deploy.check.cluster_node import Cluster, cluster
from deploy.check.cluster_scrape import scraped
from deploy.check.engine import Docker, engine
from deploy.check.image import BASE
from deploy.check.kubernetes.manifest import OURS, image, read
from deploy.check.stage import ROOT, Broken, copy_of
from deploy.check.standins import standins
from taskmill import __version__

DEPLOYMENTS = ("task-queue-redis", "task-queue-api", "task-queue-worker", "task-queue-scheduler")
ROLLOUT_SECONDS = 240
BROKEN_ROLLOUT_SECONDS = 40
LOAD_SECONDS = 300.0


PLANTS = (
    Plant("api", "httpGet: {path: /ready", "httpGet: {path: /nothing", "statuscode: 404"),
    Plant("worker", "key: database-url", "key: database-uri", "couldn't find key database-uri"),
    Plant("scheduler", "runAsUser: 10001", "runAsUser: 0", "breaks non-root policy"),
)


def run(root: Path) -> None:
    if os.geteuid() != 0:
        raise Broken("the stage cluster needs root: it starts a Kubernetes in a network of its own")
    programs()
    with tempfile.TemporaryDirectory(prefix="taskmill-cluster-") as folder:
        tree = copy_of(root, Path(folder, "tree"))
        with engine() as docker:
            _images(docker, tree)
        with cluster() as node:
            _installed(node, tree)
            _updated(node, tree)
            _refused(node, tree)


def _images(docker: Docker, tree: Path) -> None:
    """Ours with the handlers of this stage, as the guide tells to make it, under the tags of two releases."""
    others = {c["image"] for w in read(tree).workloads for c in w.containers if image(c)[0] != OURS}
    standins(docker, BASE, MYSQL_IMAGE, *sorted(others))
    docker("build", "--network=host", "--tag=taskmill:dev", str(tree))
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(str(cluster_tasks.__file__), folder)
        Path(folder, "Dockerfile").write_text(
            "FROM taskmill:dev\nCOPY cluster_tasks.py ./\n", encoding="utf-8"
        )
        tags = [f"--tag={OURS}:{tag}" for tag in (__version__, following(__version__))]
        docker("build", *tags, folder)


def _installed(node: Cluster, tree: Path) -> None:
    """The two commands of the specification, and its ten documents through the Service."""
    password = secrets.token_hex(12)
    node.apply(MYSQL.format(image=MYSQL_IMAGE, password=password))
    _rolled_out(node, "mysql")
    node.kubectl(
        *"create secret generic task-queue-secrets".split(),
        f"--from-literal=database-url=mysql://taskuser:{password}@mysql:3306/taskqueue",
        f"--from-literal=jwt-secret={secrets.token_urlsafe(48)}",
    )
    began = time.monotonic()
    node.apply(edition(tree, __version__))
    _migrated(node, __version__)
    for name in DEPLOYMENTS:
        _rolled_out(node, name)
    if (pods := len(_pods(node, "api"))) != 2:
        raise Broken(f"api: {pods} pods, the HorizontalPodAutoscaler asks for at least 2")
    _tell(f"applied, migrated and ready in {time.monotonic() - began:.0f} s, 2 pods of each process")
    _tell(node.inner.run(_python("visit", _url(node)), timeout=120).strip())
    _first_admin(node)
    scraped(node, tree)
    _tell("Prometheus scrapes 2 pods of each process, as the jobs that rules and dashboards name")


def _first_admin(node: Cluster) -> None:
    """As the guide makes it."""
    command = "exec -i deployment/task-queue-api -- taskmill users create ops@example.com --role ADMIN --password-stdin"
    said = node.kubectl(*command.split(), given=secrets.token_urlsafe(18))
    if "ops@example.com" not in said:
        raise Broken(f"taskmill users create in a pod said: {said}")


def _updated(node: Cluster, tree: Path) -> None:
    """Every process is replaced while tasks come in and run, and nobody notices."""
    version = following(__version__)
    for component in ("api", "worker"):
        node.follow(component)
    with _load(node) as load:
        time.sleep(5)
        node.apply(edition(tree, version))
        _migrated(node, version)
        for name in DEPLOYMENTS:
            _rolled_out(node, name)
        _until_gone(node, f"{OURS}:{__version__}")
        time.sleep(5)
        load.stop()
        _tell(f"updated to {version} under load: {load.result()}")
    if restarted := [pod for c in ("api", "worker", "scheduler") for pod in _pods(node, c) if _restarts(pod)]:
        raise Broken(f"restarted after the update: {', '.join(p['metadata']['name'] for p in restarted)}")


def _refused(node: Cluster, tree: Path) -> None:
    """Planted errors: no rollout is completed, the reason is told, and the pods of before go on."""
    node.apply(edition(tree, following(__version__), PLANTS))
    until = time.monotonic() + BROKEN_ROLLOUT_SECONDS
    for plant in PLANTS:
        name, left = f"task-queue-{plant.component}", max(1.0, until - time.monotonic())
        done = node.attempt(
            "rollout", "status", f"deployment/{name}", f"--timeout={left:.0f}s", timeout=left + 30
        )
        if not done.returncode:
            raise Broken(f"planted in {name}: {plant.new!r} was rolled out")
        told = node.kubectl("describe", "pods", "-l", f"app.kubernetes.io/component={plant.component}")
        if plant.reason not in told:
            raise Broken(f"planted in {name}: nothing says {plant.reason!r}:\n{told[-2000:]}")
    with _load(node) as load:
        time.sleep(5)
        load.stop()
        _tell(
            f"{len(PLANTS)} planted errors were not rolled out, and the pods of before go on: {load.result()}"
        )


class _Load:
    """deploy/check/cluster_load.py, in the network of the cluster."""

    def __init__(self, node: Cluster) -> None:
        self._log = node.folder / "load.log"
        with self._log.open("wb") as log:
            self._process = node.inner.popen(_python("cluster_load", _url(node)), log)
        until = time.monotonic() + 30
        while "started" not in self._log.read_text():
            if self._process.poll() is not None or time.monotonic() > until:
                raise Broken(f"the load did not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        self._process.terminate()

    def result(self) -> str:
        try:
            status = self._process.wait(LOAD_SECONDS)
        except subprocess.TimeoutExpired:
            raise Broken(f"the load does not end:\n{self._log.read_text()[-2000:]}") from None
        said = self._log.read_text().removeprefix("started\n").strip()
        if status:
            raise Broken(f"under load: {said[-2000:]}")
        return said

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def _load(node: Cluster) -> Iterator[_Load]:
    load = _Load(node)
    try:
        yield load
    finally:
        load.end()


def _migrated(node: Cluster, version: str) -> None:
    job = f"job/task-queue-migrate-{version.replace('.', '-')}"
    node.kubectl(
        "wait", "--for=condition=complete", f"--timeout={ROLLOUT_SECONDS}s", job, timeout=ROLLOUT_SECONDS + 30
    )


def _rolled_out(node: Cluster, name: str) -> None:
    done = node.attempt(
        "rollout",
        "status",
        f"deployment/{name}",
        f"--timeout={ROLLOUT_SECONDS}s",
        timeout=ROLLOUT_SECONDS + 30,
    )
    if done.returncode:
        node.check()
        told = node.kubectl("describe", "pods")
        logs = node.attempt("logs", f"deployment/{name}", "--tail=10").stdout
        raise Broken(f"{name}: not rolled out\n{done.stdout}\n{told[-3000:]}\n{logs}")


def _until_gone(node: Cluster, old: str) -> None:
    """Pods that end are not counted by `rollout status`."""
    until = time.monotonic() + ROLLOUT_SECONDS
    while any(c["image"] == old for pod in _pods(node) for c in pod["spec"]["containers"]):
        if time.monotonic() > until:
            raise Broken(f"pods of {old} do not end:\n{node.kubectl('get', 'pods')}")
        time.sleep(1)


def _pods(node: Cluster, component: str | None = None) -> list[dict[str, Any]]:
    """Those of Deployments."""
    chosen = f"app.kubernetes.io/component{'!=migrate' if component is None else f'={component}'}"
    pods: list[dict[str, Any]] = json.loads(node.kubectl("get", "pods", "-l", chosen, "-o", "json"))["items"]
    return pods


def _restarts(pod: dict[str, Any]) -> int:
    return sum(int(status["restartCount"]) for status in pod["status"]["containerStatuses"])


def _url(node: Cluster) -> str:
    address = node.kubectl("get", "service", "task-queue-api", "-o", "jsonpath={.spec.clusterIP}")
    return f"http://{address}:3000"


def _python(module: str, *words: str) -> list[str]:
    return ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", f"deploy.check.{module}", *words]


def _tell(words: str) -> None:
    print(f"ok   cluster: {words}", flush=True)
