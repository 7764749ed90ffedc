"""What processes are told: the product's own settings read it, as they do in the pod."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.check.kubernetes.manifest import Manifest, Workload, name
from deploy.check.kubernetes.starts import longest_stop
from taskmill.errors import ConfigError
from taskmill.settings import setting_names

SECRET = "task-queue-secrets"  # noqa: S105  # nosec B105 (its name)
SECRET_KEYS = {
    "database-url": "mysql://user:a-password-of-ones-own@mysql:3306/taskqueue",  # pragma: allowlist secret
    "jwt-secret": "0123456789abcdef" * 3,
}
"""Those that SEED.md creates."""
GUIDE = "docs/howto/kubernetes.md"
LEAVING = 5
NEEDED = {
    "api": {"DATABASE_URL", "JWT_SECRET", "REDIS_URL"},
    "worker": {"DATABASE_URL", "REDIS_URL"},
    "scheduler": {"DATABASE_URL", "REDIS_URL"},
    "migrate": {"DATABASE_URL"},
}
"""From the secret, and no more: who signs no tokens does not get the key."""


def references(manifest: Manifest, root: Path) -> Iterator[str]:
    """A ConfigMap or a key that is named is there; a key of the secret is one that the guide tells to create."""
    guide = (root / GUIDE).read_text(encoding="utf-8")
    maps = {name(found) for found in manifest.of("ConfigMap")}
    for workload in manifest.workloads:
        for container in workload.containers:
            for source in container.get("envFrom", ()):
                if source["configMapRef"]["name"] not in maps:
                    yield f"{workload}: there is no ConfigMap {source['configMapRef']['name']}"
            for variable in container.get("env", ()):
                if (key := variable.get("valueFrom", {}).get("secretKeyRef")) is not None:
                    yield from _secret_key(workload, key, guide)


def _secret_key(workload: Workload, key: dict[str, Any], guide: str) -> Iterator[str]:
    if key["name"] != SECRET:
        yield f"{workload}: takes from the secret {key['name']}, expected {SECRET}"
    elif key["key"] not in SECRET_KEYS and not key.get("optional"):
        yield f"{workload}: needs the key {key['key']} of {SECRET}, which SEED.md does not create"
    elif not re.search(rf"\b{key['key']}\b", guide):
        yield f"{workload}: takes the key {key['key']}, which {GUIDE} does not name"


def processes(manifest: Manifest) -> Iterator[str]:
    """Every variable is a setting, every process starts with what it is told, and gets as long to end as it may take."""
    known = {variable for variables in setting_names().values() for variable in variables}
    for workload in filter(lambda w: w.ours, manifest.workloads):
        told = environment(manifest, workload.ours[0])
        yield from (f"{workload}: {unknown} is not a setting" for unknown in sorted({*told} - known))
        try:
            needs = _sleep(workload) + longest_stop(workload.component, told)
        except ConfigError as error:
            yield f"{workload}: would not start: {error}"
            continue
        given = workload.pod.get("terminationGracePeriodSeconds", 30)
        if workload.serves and given < needs:
            yield f"{workload}: terminationGracePeriodSeconds is {given}, a stop may take {needs:g} s"


def secrets(manifest: Manifest) -> Iterator[str]:
    """Each process takes from the secret what it needs, and no more."""
    for workload in manifest.workloads:
        for container in workload.ours:
            taken = {v["name"] for v in container.get("env", ()) if "secretKeyRef" in v.get("valueFrom", {})}
            if taken != NEEDED.get(workload.component):
                yield f"{workload}: takes {' '.join(sorted(taken))} from {SECRET}, expected just what it needs"


def goodbye(manifest: Manifest) -> Iterator[str]:
    """Nodes take a pod out of a Service a while after it was told to end: behind one, a process listens till then."""
    for service in manifest.of("Service"):
        for workload in manifest.selected(service["spec"]["selector"]):
            if workload.ours and _sleep(workload) < LEAVING:
                yield f"{workload}: sleeps less than {LEAVING} s in preStop: requests would find it gone"


def _sleep(workload: Workload) -> float:
    command = workload.ours[0].get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ())
    return float(command[1]) if command[:1] == ["sleep"] else 0.0


def environment(manifest: Manifest, container: dict[str, Any]) -> dict[str, str]:
    """The variables of a container whose secret has the keys of SEED.md."""
    maps = {name(found): found.get("data", {}) for found in manifest.of("ConfigMap")}
    told: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        told |= maps.get(source["configMapRef"]["name"], {})
    for variable in container.get("env", ()):
        key = variable.get("valueFrom", {}).get("secretKeyRef", {}).get("key")
        value = variable.get("value") if key is None else SECRET_KEYS.get(key)
        if value is not None:
            told[variable["name"]] = value
    return told
