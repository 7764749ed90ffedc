"""Rules for every file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.check.composition.files import Composition
from taskmill.settings import setting_names

LOOPBACK = "127.0.0.1"
ONE_SHOTS = ("settings", "migrate")
TASKMILL = ("migrate", "api", "worker", "scheduler")
SERVICES = {*TASKMILL, "mysql", "redis", "prometheus", "alertmanager", "grafana"}
MYSQL = ("--innodb-flush-log-at-trx-commit=1", "--sync-binlog=1")
REDIS = ("--maxmemory-policy noeviction", "--save  --appendonly no")


def names(of: Composition, more: set[str]) -> Iterator[str]:
    """`more`: what this file has beyond the others."""
    if {*of.services} != SERVICES | more:
        yield f"services: {', '.join(sorted({*of.services} ^ (SERVICES | more)))} missing, or one too many"


def images(of: Composition) -> Iterator[str]:
    """Ours are built here; of the others, a tag says which."""
    for name, service in of.services.items():
        image = service["image"]
        if image.startswith("taskmill:"):
            if "build" not in service:
                yield f"{name}: {image} is not built"
        elif not re.fullmatch(r"[a-z/]+:v?\d+\.\d+(\.\d+)?", image):
            yield f"{name}: {image} has no tag with a version"


def sources(of: Composition) -> Iterator[str]:
    """What is mounted from the tree is there, and no container writes into it."""
    for name, service in of.services.items():
        for volume in service.get("volumes", ()):
            if volume["type"] != "bind":
                continue
            path = Path(volume["source"])
            if path.is_relative_to(of.root) and path.name not in ("certs", "acme") and not path.exists():
                yield f"{name}: {path.relative_to(of.root)} is mounted, and is not there"
            if not volume.get("read_only"):
                yield f"{name}: {volume['target']} is mounted to be written"


def durable(of: Composition) -> Iterator[str]:
    """A commit is on the disk when it is answered, and Redis never drops a part of the index in silence."""
    for name, options in (("mysql", MYSQL), ("redis", REDIS)):
        command = " ".join(of.services[name]["command"])
        yield from (
            f"{name}: expected {option} in its command" for option in options if option not in command
        )


def order(of: Composition) -> Iterator[str]:
    """The schema is there before anything asks for it, and MySQL before the schema."""
    yield from waits(of, "migrate", "mysql", "service_healthy")
    for name in ("api", "worker", "scheduler"):
        yield from waits(of, name, "migrate", "service_completed_successfully")
    yield from waits(of, "grafana", "prometheus", "service_healthy")


def waits(of: Composition, name: str, other: str, condition: str) -> Iterator[str]:
    if of.services[name].get("depends_on", {}).get(other, {}).get("condition") != condition:
        yield f"{name}: expected that it waits until {other} is {condition}"


def watched(of: Composition) -> Iterator[str]:
    """A health check for what runs on, none for what ends; both say whether they start again; no log fills the disk."""
    for name, service in of.services.items():
        check, restart = service.get("healthcheck", {}), service.get("restart")
        if name in ONE_SHOTS:
            if restart != "no" or not check.get("disable"):
                yield f'{name}: expected restart: "no", and no healthcheck: it ends'
        elif restart != "unless-stopped" or not check.get("test"):
            yield f"{name}: expected restart: unless-stopped, and a healthcheck"
        if "max-size" not in service.get("logging", {}).get("options", {}):
            yield f"{name}: its log has no max-size"


def grafana(of: Composition) -> Iterator[str]:
    """Everything in it is provisioned, from where deploy/grafana has it."""
    targets = {v["target"]: v["source"] for v in of.services["grafana"]["volumes"]}
    for target, source in (
        ("/etc/grafana/provisioning", "deploy/grafana/provisioning"),
        ("/var/lib/grafana/dashboards", "deploy/grafana/dashboards"),
    ):
        if targets.get(target) != str(of.root / source):
            yield f"grafana: expected {source} at {target}"


def variables(of: Composition) -> Iterator[str]:
    """A misspelt setting would be ignored."""
    known = {variable for names in setting_names().values() for variable in names}
    for name in TASKMILL:
        for variable in of.services[name]["environment"]:
            if variable.startswith("TASKMILL_") and variable not in known:
                yield f"{name}: {variable} is not a setting"


def ports(of: Composition) -> dict[str, list[tuple[str, str]]]:
    """Service → what it publishes: address (empty: any) and port."""
    return {
        name: [(port.get("host_ip", ""), port["published"]) for port in service["ports"]]
        for name, service in of.services.items()
        if service.get("ports")
    }


def differences(of: Composition, expected: dict[str, list[tuple[str, str]]]) -> Iterator[str]:
    found = ports(of)
    for name in sorted({*found, *expected}):
        if found.get(name) != expected.get(name):
            yield f"{name}: expected to publish {_shown(expected.get(name))}, found {_shown(found.get(name))}"


def _shown(ports: Any) -> str:
    return ", ".join(f"{address or '*'}:{port}" for address, port in ports or ()) or "nothing"
