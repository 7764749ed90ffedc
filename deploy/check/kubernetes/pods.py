"""Each pod and each container: hardened, bounded, probed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deploy.check.kubernetes.manifest import Manifest, Workload, image

USER = 10001
"""Of the image (Dockerfile)."""
POD = {"automountServiceAccountToken": False, "enableServiceLinks": False}
SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
FORBIDDEN = ("hostNetwork", "hostPID", "hostIPC")
PROBES = {"startupProbe": "/live", "livenessProbe": "/live", "readinessProbe": "/ready"}
PORTS = {"api": 3000, "worker": 9464, "scheduler": 9464}
UNITS = {"m": 0.001, "": 1.0, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}


def security(manifest: Manifest) -> Iterator[str]:
    """Nobody is root, nothing is written but to volumes, no token of the cluster is inside, no Service's address
    becomes a variable (that of one called `redis` would be REDIS_PORT=tcp://…)."""
    for workload in manifest.workloads:
        pod = workload.pod
        yield from _differences(f"{workload}", pod, POD)
        yield from _differences(f"{workload}: securityContext", pod.get("securityContext", {}), SECURITY)
        yield from (f"{workload}: {key} is set" for key in FORBIDDEN if pod.get(key))
        yield from (
            f"{workload}: the volume {volume['name']} is a folder of the node"
            for volume in pod.get("volumes", ())
            if "hostPath" in volume
        )
        for container in workload.containers:
            where = f"{workload}: {container['name']}: securityContext"
            yield from _differences(where, container.get("securityContext", {}), CONTAINER)


def resources(manifest: Manifest) -> Iterator[str]:
    """Every container says what it needs and what it may take at most."""
    for workload in manifest.workloads:
        for container in workload.containers:
            where, found = f"{workload}: {container['name']}", container.get("resources", {})
            for resource in ("cpu", "memory"):
                needs, most = (found.get(kind, {}).get(resource) for kind in ("requests", "limits"))
                if needs is None or most is None:
                    yield f"{where}: no request or no limit of {resource}"
                elif quantity(needs) > quantity(most):
                    yield f"{where}: requests more {resource} than its limit"
        yield from (
            f"{workload}: the volume {volume['name']} has no sizeLimit"
            for volume in workload.pod.get("volumes", ())
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {})
        )


def probes(manifest: Manifest) -> Iterator[str]:
    """What serves is asked: ours at /live and /ready, at the port where the process has them."""
    for workload in filter(lambda w: w.serves, manifest.workloads):
        for container in workload.containers:
            where = f"{workload}: {container['name']}"
            if container not in workload.ours:
                yield from (
                    f"{where}: no {p}" for p in ("livenessProbe", "readinessProbe") if p not in container
                )
                continue
            for probe, path in PROBES.items():
                asked = container.get(probe, {}).get("httpGet", {})
                if asked.get("path") != path:
                    yield f"{where}: {probe} asks {asked.get('path', 'nothing')}, not {path}"
                elif _number(workload, asked["port"]) != PORTS.get(workload.component):
                    yield f"{where}: {probe} does not ask at {PORTS.get(workload.component)}"


def scraped(manifest: Manifest) -> Iterator[str]:
    """Prometheus finds every process of ours that serves."""
    for workload in manifest.workloads:
        if workload.serves and workload.ours:
            wanted = {"scrape": "true", "port": str(PORTS.get(workload.component)), "path": "/metrics"}
            has = {key.removeprefix("prometheus.io/"): v for key, v in workload.annotations.items()}
            yield from _differences(f"{workload}: prometheus.io", has, wanted)


def images(manifest: Manifest) -> Iterator[str]:
    """Every image has a tag that says which; our containers run the process that their component says."""
    for workload in manifest.workloads:
        for container in workload.containers:
            if image(container)[1] in ("", "latest"):
                yield f"{workload}: the image {container['image']} has no tag that says which"
        for container in workload.ours:
            if container.get("args") != [workload.component]:
                yield f"{workload}: runs {container.get('args')}, its component is {workload.component!r}"


def quantity(text: object) -> float:
    """200m → 0.2, 1Gi → 1073741824."""
    digits = str(text).rstrip("mKMGi")
    return float(digits) * UNITS[str(text)[len(digits) :]]


def _number(workload: Workload, port: int | str) -> int | None:
    return port if isinstance(port, int) else workload.ports.get(port)


def _differences(where: str, found: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
    for key, value in wanted.items():
        if found.get(key) != value:
            yield f"{where}: {key} is {found.get(key)!r}, expected {value!r}"
