"""The Compose files, resolved by the real docker-compose, against rules that no schema has; and the proxy's configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from deploy.check.composition import both, development, production, proxy
from deploy.check.composition.files import (
    DEVELOPMENT,
    ENVIRONMENT,
    PRODUCTION,
    TLS,
    Composition,
    composition,
    without_environment,
)
from deploy.check.stage import Broken, Check, Plant, expect_none

EXAMPLE = ".env.example"
SHARED = (both.images, both.sources, both.durable, both.order, both.watched, both.grafana, both.variables)


def of_development(root: Path) -> None:
    of = composition(root, DEVELOPMENT)
    rules = (*SHARED, development.published, development.reloads, development.known)
    _expect_none(of, both.names(of, set()), *(rule(of) for rule in rules))


def of_production(root: Path) -> None:
    of = _production(root, PRODUCTION)
    rules = (
        *SHARED,
        production.published,
        production.apart,
        production.hardened,
        production.enough,
        production.started,
        production.secrets,
        production.proxied,
    )
    _expect_none(of, both.names(of, {"settings", "proxy"}), *(rule(of) for rule in rules))
    same = composition(root, DEVELOPMENT).services
    differ = [
        n for n in sorted(both.SERVICES - {*both.TASKMILL}) if same[n]["image"] != of.services[n]["image"]
    ]
    _expect_none(of, (f"{n}: {DEVELOPMENT} has another image" for n in differ))


def needs_environment(root: Path) -> None:
    if ENVIRONMENT not in without_environment(root, PRODUCTION):
        raise Broken(f"{PRODUCTION}: without {ENVIRONMENT}, expected that Compose refuses it")


def of_tls(root: Path) -> None:
    of = _production(root, PRODUCTION, TLS)
    mounts = {v["target"]: v["source"] for v in of.services["proxy"]["volumes"]}
    if mounts.get("/etc/nginx/servers") != str(root / "deploy/nginx/tls"):
        raise Broken(f"{TLS}: expected deploy/nginx/tls in the place of deploy/nginx/http")
    _expect_none(
        of,
        both.sources(of),
        both.differences(of, production.PUBLISHED | {"proxy": [("", "80"), ("", "443")]}),
    )


def of_proxy(root: Path) -> None:
    expect_none([*proxy.routes(root), *proxy.servers(root)])


def _production(root: Path, *files: str) -> Composition:
    """As with a copy of .env.example: what stands there is what may leak."""
    return composition(root, *files, environment=_filled((root / EXAMPLE).read_text(encoding="utf-8")))


def _filled(example: str) -> str:
    return re.sub(r"^(?:# )?([A-Z_]+)=$", r"\1=x", example, flags=re.MULTILINE)


def _expect_none(of: Composition, *complaints: Iterable[str]) -> None:
    expect_none(f"{of.file}: {line}" for lines in complaints for line in lines)


dev, prod, tls, nginx = (partial(Plant, path) for path in (DEVELOPMENT, PRODUCTION, TLS, proxy.ROUTES))

CHECKS = (
    Check(
        "compose: development",
        of_development,
        (
            dev("    command: [scheduler]", "    comand: [scheduler]", "comand"),
            dev(
                "migrate: {condition: service_completed_successfully}",
                "migrate: {condition: done}",
                "condition value must be one of",
            ),
            dev("image: redis:8.0", "image: redis:latest", "redis:latest has no tag"),
            dev(
                "127.0.0.1:3306:3306", "3306:3306", "mysql: expected to publish 127.0.0.1:3306, found *:3306"
            ),
            dev("127.0.0.1:3001:3000", "127.0.0.1:3002:3000", "grafana: expected to publish"),
            dev(
                "./deploy/prometheus:", "./deploy/prometeus:", "deploy/prometeus is mounted, and is not there"
            ),
            dev("- .:/source:ro", "- .:/source", "/source is mounted to be written"),
            dev("- --sync-binlog=1", "- --sync-binlog=0", "mysql: expected --sync-binlog=1"),
            dev("noeviction", "allkeys-lru", "redis: expected --maxmemory-policy noeviction"),
            dev(
                "mysql: {condition: service_healthy}",
                "mysql: {condition: service_started}",
                "migrate: expected that",
            ),
            dev("command: [api, --reload]", "command: [api]", "api: expected --reload"),
            dev("PYTHONPATH: /source/src:/source", "PYTHONPATH: /source", "first on its PYTHONPATH"),
            dev("TASKMILL_METRICS_HOST", "TASKMILL_METRIC_HOST", "TASKMILL_METRIC_HOST is not a setting"),
            dev("MYSQL_PASSWORD: taskpass", "MYSQL_PASSWORD: pass", "expected the DATABASE_URL"),
            dev("GF_SECURITY_ADMIN_PASSWORD: admin", "GF_SECURITY_ADMIN_PASSWORD: x", "expected admin/admin"),
            dev(
                "/var/lib/grafana/dashboards:ro",
                "/var/lib/dashboards:ro",
                "expected deploy/grafana/dashboards at",
            ),
        ),
    ),
    Check(
        "compose: production",
        of_production,
        (
            prod("image: prom/prometheus:v3.5.3", "image: prom/prometheus:v3.4.0", "has another image"),
            prod(
                "      - 3000:8080\n",
                "      - 3000:8080\n      - 8081:8081\n",
                "proxy: expected to publish *:3000",
            ),
            prod(
                "    networks: [data]\n    depends_on:\n      mysql:",
                "    networks: [edge]\n    depends_on:\n      mysql:",
                "migrate: the network edge is for",
            ),
            prod("    internal: true\n", "", "networks: data: expected internal"),
            prod(
                "networks: [edge]\n", "networks: [edge, data]\n", "proxy: has no business in the network data"
            ),
            prod(
                "    user: redis\n",
                '    user: redis\n    ports: ["6379:6379"]\n',
                "redis: expected to publish nothing",
            ),
            prod("  read_only: true\n", "", "grafana: expected read_only"),
            prod("  cap_drop: [ALL]\n", "  cap_drop: [NET_RAW]\n", "worker: expected cap_drop"),
            prod(
                'security_opt: ["no-new-privileges:true"]',
                "privileged: true",
                "api: expected no-new-privileges",
            ),
            prod('limits: {cpus: "2.0", memory: 1G}', 'limits: {cpus: "2.0"}', "worker: expected limits"),
            prod(
                'options: {max-size: 20m, max-file: "5"}',
                'options: {max-file: "5"}',
                "its log has no max-size",
            ),
            prod("  <<: *hardened\n  restart: unless-stopped", "  <<: *hardened", "mysql: expected restart"),
            prod("x-grace: &grace 150s", "x-grace: &grace 30s", "worker: stop_grace_period is 30 s"),
            prod("      STOP_GRACE: *grace\n", "      STOP_GRACE: 10m\n", "settings: expected STOP_GRACE"),
            prod(
                "TASKMILL_TRUSTED_PROXIES: *edge",
                "TASKMILL_TRUSTED_PROXIES: 0.0.0.0/0",
                "to be the network edge",
            ),
            prod('PORT: "3000"', "PORT: ${PORT:-3000}", "it is filled from .env"),
            prod(
                '  MYSQL_ROOT_PASSWORD: ""\n  GF_', "  GF_", "worker: MYSQL_ROOT_PASSWORD is not its to know"
            ),
            prod(
                '  JWT_SECRET: ""\n  JWT_SECRET_PREVIOUS: ""\n\n',
                '  JWT_SECRET_PREVIOUS: ""\n\n',
                "worker: JWT_SECRET is not",
            ),
            prod("  APP_ENV: production\n  PORT", "  APP_ENV: development\n  PORT", "api: expected APP_ENV"),
            prod(
                "- --innodb-flush-log-at-trx-commit=1",
                "- --innodb-flush-log-at-trx-commit=2",
                "mysql: expected",
            ),
            prod(
                "api: {condition: service_healthy}",
                "api: {condition: service_started}",
                "proxy: expected that it waits",
            ),
        ),
    ),
    Check(
        "compose: production needs .env.prod",
        needs_environment,
        (prod("[.env.prod]", "[{path: .env.prod, required: false}]", "expected that Compose refuses it"),),
    ),
    Check(
        "compose: https",
        of_tls,
        (
            tls("ports: !override", "ports:", "proxy: expected to publish *:80, *:443"),
            tls(
                "./deploy/nginx/tls:/etc/nginx/servers:ro",
                "./deploy/nginx/tls:/etc/nginx/more:ro",
                "in the place of",
            ),
        ),
    ),
    Check(
        "compose: the proxy's routes",
        of_proxy,
        (
            nginx("location = /graphql {", "location /graphql {", "expected to pass on"),
            nginx(
                "location / {\n  return 404;", "location / {\n  proxy_pass http://api;", "found /, = /graphql"
            ),
            nginx(
                "X-Forwarded-For $remote_addr",
                "X-Forwarded-For $proxy_add_x_forwarded_for",
                "X-Forwarded-For",
            ),
            nginx("proxy_buffering off;", "proxy_buffering on;", "expected proxy_buffering off"),
            nginx("$http_upgrade", "$http_upgrades", "Upgrade"),
            nginx("if ($inside = 0) {\n    return 404;\n  }", "# open", "networks of the house alone"),
        ),
    ),
)
