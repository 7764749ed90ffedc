"""A Kubernetes of one node in a network of its own, as processes of ours.

    with cluster() as node:
        node.docker("build", …)                         # its images are those that pods can have
        node.kubectl("apply", "-f", "k8s/deployment.yaml")

etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet with Docker and the `bridge` of CNI, kube-proxy
with iptables, and names of Services by cluster_dns. What it lacks of a real one: metrics, policies, an ingress, volumes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from deploy.check import cluster_runtime
from deploy.check.cache import cache
from deploy.check.cluster_build import programs
from deploy.check.cluster_config import (
    NODE,
    NODE_ADDRESS,
    SERVICES,
    commands,
    write,
)
from deploy.check.command import attempt, end, last, run
from deploy.check.debian import unpacked
from deploy.check.engine import PACKAGES, SUITE, Docker, engine, tables
from deploy.check.space import Space, space
from deploy.check.stage import ROOT, Broken

BRIDGE = "cni0"
PAUSE = "pause:here"
READY_SECONDS = 120.0
GROUP = "taskmill-cluster"
SHARES = 16 * 1024
"""Of one process that wants to run: 1024."""
KEPT = "kernel-before-cluster"
# The kubelet sets them for the whole machine.
KERNEL = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


@dataclass
class Cluster:
    docker: Docker
    inner: Space
    folder: Path
    processes: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)

    def kubectl(self, *words: str, given: str = "", timeout: float = 60) -> str:
        """What it printed when it was given this to read; Broken when it fails."""
        done = self.attempt(*words, given=given, timeout=timeout)
        if done.returncode:
            raise Broken(f"kubectl {' '.join(words)}: exit {done.returncode}\n{done.stdout[-2000:]}")
        return done.stdout

    def attempt(self, *words: str, given: str = "", timeout: float = 60) -> subprocess.CompletedProcess[str]:
        command = ["nsenter", f"--net={self.inner.path}", *self._kubectl(words)]
        return attempt(command, f"kubectl {' '.join(words)}", given=given, timeout=timeout)

    def _kubectl(self, words: Iterable[str]) -> list[str]:
        return [str(programs() / "kubectl"), f"--kubeconfig={self.folder / 'kubeconfig'}", *words]

    def follow(self, component: str) -> None:
        """Keeps the logs of its pods from now on, for who wants to know why: they outlive the pods in this file."""
        file = self.folder / f"{component}.pods.log"
        words = ["logs", "--follow", "--prefix", f"--selector=app.kubernetes.io/component={component}"]
        with file.open("ab") as log:
            self.inner.popen(self._kubectl(words), log)

    def apply(self, manifest: str) -> None:
        """`kubectl apply -f`, and the names of the Services that there are now."""
        file = self.folder / "applied.yaml"
        file.write_text(manifest, encoding="utf-8")
        self.kubectl("apply", "-f", str(file))
        self.tell_names()

    def tell_names(self) -> None:
        services = json.loads(self.kubectl("get", "services", "-o", "json"))["items"]
        names = {
            f"{service['metadata']['name']}.default.svc.cluster.local": service["spec"]["clusterIP"]
            for service in services
        }
        fresh = self.folder / "names.new"
        fresh.write_text(json.dumps(names), encoding="utf-8")
        fresh.replace(self.folder / "names")

    def start(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes.append((name, self.inner.popen(["env", *_environment(), *command], log)))

    def check(self) -> None:
        """Broken when one of its processes has ended."""
        for name, process in self.processes:
            if process.poll() is not None:
                said = last((self.folder / f"{name}.log").read_text(errors="replace"), 5)
                raise Broken(f"{name} ended with {process.returncode}:\n{said}")

    def end(self) -> None:
        """Last started, first ended: the kubelet before what it would complain about."""
        for _, process in reversed(self.processes):
            end(process, 10)


@contextmanager
def cluster() -> Iterator[Cluster]:
    folder = cache() / "cluster"
    with ExitStack() as stack:
        _keep_kernel()
        stack.callback(_restore_kernel)
        stack.callback(_clear_groups)
        _make_groups()
        inner = stack.enter_context(space("cluster"))
        options = (f"--add-runtime=pods={_runtime()}", "--default-runtime=pods")
        docker = stack.enter_context(engine(inner.path, options))
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        node = Cluster(docker, inner, folder)
        _network(inner)
        _pause(docker)
        write(folder)
        stack.callback(node.end)
        _start(node)
        yield node


def _start(node: Cluster) -> None:
    (node.folder / "names").write_text("{}", encoding="utf-8")
    told = commands(
        node.folder, programs(), unpacked("sid", "etcd-server") / "usr/bin/etcd", _plugins(), PAUSE
    )
    told["kubelet"] += [f"--docker-endpoint=unix://{node.docker.socket}", f"--cgroup-root=/{GROUP}"]
    # What it writes to fixed places stays in a file system of its own.
    private = 'mount -t tmpfs none /var/log && mount -t tmpfs none /var/lib/kubelet 2>/dev/null; exec "$@"'
    told["kubelet"] = ["unshare", "--mount", "sh", "-c", private, "kubelet", *told["kubelet"]]
    for name in ("etcd", "kube-apiserver"):
        node.start(name, told[name])
    _wait(node, "the API server", "get", "--raw", "/readyz")
    for name in ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"):
        node.start(name, told[name])
    node.start(
        "dns", [sys.executable, "-m", "deploy.check.cluster_dns", NODE_ADDRESS, str(node.folder / "names")]
    )
    _wait(node, "the node", "wait", "--for=condition=Ready", "--timeout=2s", f"node/{NODE}")
    _wait(node, "the account of the pods", "get", "serviceaccount", "default")


def _wait(node: Cluster, what: str, *words: str) -> None:
    until = time.monotonic() + READY_SECONDS
    while (done := node.attempt(*words)).returncode:
        node.check()
        if time.monotonic() > until:
            raise Broken(f"{what} is not ready after {READY_SECONDS:.0f} s: {done.stdout.strip()[-500:]}")
        time.sleep(0.5)


def _network(inner: Space) -> None:
    """The bridge of the pods, with the address of the node; addresses of Services are reached through kube-proxy's rules."""
    for words in (
        f"ip link add {BRIDGE} type bridge",
        f"ip address add {NODE_ADDRESS}/24 dev {BRIDGE}",
        f"ip link set {BRIDGE} up",
        f"ip route add {SERVICES} dev {BRIDGE}",
        "sysctl --quiet --write net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1",
    ):
        inner.run(words.split())


def _plugins() -> Path:
    return unpacked(SUITE, "containernetworking-plugins") / "usr/lib/cni"


def _pause(docker: Docker) -> None:
    """The container that holds a pod's network."""
    if not docker.attempt("image", "inspect", PAUSE).returncode:
        return
    busybox = unpacked(SUITE, "busybox-static") / "bin"
    archive = docker.socket.parent / "pause.tar"
    run(["tar", "--create", f"--file={archive}", f"--directory={busybox}", "busybox"])
    script = "trap 'exit 0' TERM INT; while true; do /busybox sleep 3600 & wait; done"
    docker(
        "import", f"--change=ENTRYPOINT {json.dumps(['/busybox', 'sh', '-c', script])}", str(archive), PAUSE
    )


def _runtime() -> Path:
    """A program for Docker to call; it is not told anything else."""
    runc = unpacked(SUITE, *PACKAGES) / "usr/sbin/runc"
    file = cache() / "cluster-runtime"
    code = Path(cluster_runtime.__file__)
    file.write_text(
        f'#!/bin/sh\n{cluster_runtime.RUNC}={runc} exec {sys.executable} {code} "$@"\n', encoding="utf-8"
    )
    file.chmod(0o755)
    return file


def _environment() -> list[str]:
    """For the kubelet and kube-proxy, which call iptables; for our module."""
    told = tables(unpacked(SUITE, *PACKAGES), cache() / "cluster-tables") | {"PYTHONPATH": str(ROOT)}
    return [f"{name}={value}" for name, value in told.items()]


def _keep_kernel() -> None:
    """In a file, for the next run too, should this one be killed."""
    kept = cache() / KEPT
    if not kept.exists():
        kept.write_text(json.dumps({name: Path("/proc/sys", name).read_text() for name in KERNEL}))


def _restore_kernel() -> None:
    kept = cache() / KEPT
    for name, value in json.loads(kept.read_text()).items():
        Path("/proc/sys", name).write_text(value)
    kept.unlink()


def _make_groups() -> None:
    """A control group above those of the pods, that has much of the processors: else, beside many other processes, MySQL in its
    pod would get too little to answer in time, and that is another test."""
    for root in (found.parent for found in Path("/sys/fs/cgroup").glob("*/tasks")):
        group = root / GROUP
        group.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (root / name).exists():
                (group / name).write_text((root / name).read_text())
        if (group / "cpu.shares").exists():
            (group / "cpu.shares").write_text(str(SHARES))


def _clear_groups() -> None:
    """The control groups of pods outlive them."""
    for root in Path("/sys/fs/cgroup").glob(f"*/{GROUP}"):
        for folder, _, _ in os.walk(root, topdown=False):
            with suppress(OSError):  # an empty group costs nothing
                Path(folder).rmdir()
