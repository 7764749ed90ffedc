"""Rules for docker-compose.yml."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.check.composition.both import LOOPBACK, TASKMILL, differences
from deploy.check.composition.files import Composition

PUBLISHED = {
    "api": [(LOOPBACK, "3000")],
    "prometheus": [(LOOPBACK, "9090")],
    "grafana": [(LOOPBACK, "3001")],
    "mysql": [(LOOPBACK, "3306")],
    "redis": [(LOOPBACK, "6379")],
    "alertmanager": [(LOOPBACK, "9093")],
}


def published(of: Composition) -> Iterator[str]:
    """At the ports of the specification, to this machine alone: everybody knows these passwords."""
    yield from differences(of, PUBLISHED)


def reloads(of: Composition) -> Iterator[str]:
    """API and worker run the sources of this folder, and restart when these change."""
    for name in ("api", "worker"):
        service = of.services[name]
        mounts = {v["target"]: v["source"] for v in service["volumes"]}
        if "--reload" not in service["command"]:
            yield f"{name}: expected --reload"
        if mounts.get("/source") != str(of.root) or "/source/src" not in service["environment"]["PYTHONPATH"]:
            yield f"{name}: expected the sources of this folder at /source, and first on its PYTHONPATH"


def known(of: Composition) -> Iterator[str]:
    """The logins of the specification."""
    database, found = of.services["mysql"]["environment"], of.services["grafana"]["environment"]
    url = "mysql://{MYSQL_USER}:{MYSQL_PASSWORD}@mysql:3306/{MYSQL_DATABASE}".format(**database)
    for name in TASKMILL:
        if of.services[name]["environment"]["DATABASE_URL"] != url:
            yield f"{name}: expected the DATABASE_URL {url}"
    if (found["GF_SECURITY_ADMIN_USER"], found["GF_SECURITY_ADMIN_PASSWORD"]) != ("admin", "admin"):
        yield "grafana: expected admin/admin"
