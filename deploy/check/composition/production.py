"""Rules for docker-compose.prod.yml."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from deploy.check.composition.both import LOOPBACK, TASKMILL, differences, waits
from deploy.check.composition.files import Composition
from taskmill.settings import Settings
from taskmill.settings.published import PASSWORDS
from taskmill.worker.options import WorkerOptions

REPLICAS = {"api": 2, "worker": 2, "scheduler": 2}
PUBLISHED = {
    "proxy": [("", "3000")],
    "prometheus": [(LOOPBACK, "9090")],
    "alertmanager": [(LOOPBACK, "9093")],
    "grafana": [(LOOPBACK, "3001")],
}
OURS = ("settings", *TASKMILL)
TOKENS = ("JWT_SECRET", "JWT_SECRET_PREVIOUS")
MAXIMAL_STOP = WorkerOptions().longest_stop


def published(of: Composition) -> Iterator[str]:
    """The proxy alone; what watches, to this machine; no database."""
    yield from differences(of, PUBLISHED)


def apart(of: Composition) -> Iterator[str]:
    """MySQL and Redis have no way out, and neither proxy nor Grafana a way to them."""
    if not of.networks["data"].get("internal"):
        yield "networks: data: expected internal: true"
    for name, service in of.services.items():
        networks = {*service["networks"]}
        if name in ("mysql", "redis") and networks != {"data"}:
            yield f"{name}: expected in the network data alone"
        if name not in (*OURS, "mysql", "redis") and "data" in networks:
            yield f"{name}: has no business in the network data"


def hardened(of: Composition) -> Iterator[str]:
    """Nothing writes to its root, has a capability or gets one; memory and processor have a limit."""
    for name, service in of.services.items():
        if not service.get("read_only"):
            yield f"{name}: expected read_only: true"
        if service.get("cap_drop") != ["ALL"] or service.get("cap_add"):
            yield f"{name}: expected cap_drop: [ALL], and no cap_add"
        if "no-new-privileges:true" not in service.get("security_opt", ()):
            yield f"{name}: expected no-new-privileges:true"
        if service.get("privileged") or service.get("network_mode") or service.get("pid"):
            yield f"{name}: has more of this machine than a container should"
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        if not limits.get("memory") or not limits.get("cpus"):
            yield f"{name}: expected limits of memory and cpus"


def enough(of: Composition) -> Iterator[str]:
    """Of each, one may die; none is killed while it stops."""
    for name, replicas in REPLICAS.items():
        if of.services[name].get("deploy", {}).get("replicas") != replicas:
            yield f"{name}: expected {replicas} replicas"
        grace = _seconds(of.services[name].get("stop_grace_period", "10s"))
        if grace < MAXIMAL_STOP:
            yield f"{name}: stop_grace_period is {grace} s, and a stop may take {MAXIMAL_STOP:.0f} s"


def started(of: Composition) -> Iterator[str]:
    """`settings` is before everything that keeps what it was first told; the proxy is after the API."""
    for name in ("mysql", "redis", "prometheus"):
        yield from waits(of, name, "settings", "service_completed_successfully")
    yield from waits(of, "proxy", "api", "service_healthy")
    told = of.services["settings"]["environment"].get("STOP_GRACE", "")
    if _seconds(told) != _seconds(of.services["worker"].get("stop_grace_period", "10s")):
        yield "settings: expected STOP_GRACE to be the worker's stop_grace_period"


def secrets(of: Composition) -> Iterator[str]:
    """From .env.prod alone, to those that need them."""
    lines = [line for line in of.text.splitlines() if not line.lstrip().startswith("#")]
    if any(re.search(r"(?<!\$)\$(\$\$)*[{A-Za-z_]", line) for line in lines):
        yield "it is filled from .env: expected no ${…}, since .env is of development"
    for word in sorted(PASSWORDS - {"pass", "admin", "password"}):
        if word in of.text:
            yield f"{word} is a published password"
    for name in (*OURS, "mysql", "grafana"):
        yield from _given(of, name)


def _given(of: Composition, name: str) -> Iterator[str]:
    environment = of.services[name]["environment"]
    ours = [
        variable
        for info in Settings.model_fields.values()
        if isinstance(info.json_schema_extra, dict) and info.json_schema_extra["secret"]
        for variable in info.validation_alias.choices  # type: ignore[union-attr]
    ]
    strange = {
        "settings": (),
        "api": ("MYSQL_ROOT_PASSWORD",),
        "mysql": tuple(ours),
        "grafana": (*ours, "MYSQL_PASSWORD", "MYSQL_ROOT_PASSWORD"),
    }.get(name, (*TOKENS, "MYSQL_ROOT_PASSWORD"))
    yield from (f"{name}: {variable} is not its to know" for variable in strange if environment.get(variable))
    if name in OURS and environment.get("APP_ENV") != "production":
        yield f"{name}: expected APP_ENV: production"


def proxied(of: Composition) -> Iterator[str]:
    """The API believes the proxy, and nobody who is not in its network."""
    (subnet,) = (config["subnet"] for config in of.networks["edge"]["ipam"]["config"])
    trusted = of.services["api"]["environment"].get("TASKMILL_TRUSTED_PROXIES")
    if trusted != subnet or ipaddress.ip_network(subnet).prefixlen < 24:
        yield f"api: expected TASKMILL_TRUSTED_PROXIES to be the network edge, {subnet}, found {trusted}"
    others = {name for name, service in of.services.items() if "edge" in service["networks"]} - {
        "proxy",
        "api",
    }
    yield from (f"{name}: the network edge is for proxy and api" for name in sorted(others))


def _seconds(duration: str) -> int:
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", duration))
