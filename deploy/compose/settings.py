"""Before anything of docker-compose.prod.yml starts: is .env.prod fit for production? One line for each thing that is not.

It runs in Taskmill's image, with the variables of .env.prod. What Taskmill refuses by itself is refused here already,
before MySQL has made its users with a password that is then changed; and what only these containers can get wrong.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from urllib.parse import unquote, urlsplit

from taskmill.errors import ConfigError
from taskmill.settings import Settings
from taskmill.settings.published import is_published


def complaints(environment: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with these variables, which are those of this process."""
    yield from _secrets(environment)
    try:
        Settings.load(env_file=None)
    except ConfigError as error:
        yield error.message
    try:  # what production alone refuses hides nothing else
        settings = Settings.load(env_file=None, environment="development")
    except ConfigError:
        return
    yield from _servers(settings, environment)
    settings = settings.model_copy(update={"environment": "production"})
    for asked in (settings.auth_options, lambda: _stop(settings, environment)):
        try:
            asked()
        except ConfigError as error:
            yield error.message


def _secrets(environment: Mapping[str, str]) -> Iterator[str]:
    """Those that are not Taskmill's own."""
    for name in ("MYSQL_PASSWORD", "MYSQL_ROOT_PASSWORD", "GF_SECURITY_ADMIN_PASSWORD"):
        given = environment.get(name, "")
        if not given:
            yield f"{name}: expected a password, such as the output of: openssl rand -hex 24; it is not set"
        elif is_published(given):
            yield f"{name}: expected a password of your own, such as the output of: openssl rand -hex 24"


def _servers(settings: Settings, environment: Mapping[str, str]) -> Iterator[str]:
    """Each container has a localhost of its own, and MySQL here makes the user that DATABASE_URL names."""
    if settings.embedded:
        yield "DATABASE_URL: expected mysql://…@mysql:3306/…: the containers share one record"
        return
    database, index = urlsplit(settings.database_url), urlsplit(settings.redis_url or "")
    if _is_own(database.hostname):
        yield "DATABASE_URL: expected the host mysql, or your server's: localhost is each container itself"
    if _is_own(index.hostname):
        yield "REDIS_HOST: expected redis, or your server's name: localhost is each container itself"
    if database.hostname != "mysql":
        return
    named = {
        "MYSQL_USER": database.username,
        "MYSQL_PASSWORD": database.password,
        "MYSQL_DATABASE": database.path.removeprefix("/"),
    }
    for name, said in named.items():
        if environment.get(name, "") != unquote(said or ""):
            yield f"{name}: expected the same as in DATABASE_URL: the container mysql makes what this names"


def _stop(settings: Settings, environment: Mapping[str, str]) -> None:
    """ConfigError when a worker would be killed while it stops, or has no app."""
    needs, grace = settings.worker_options().longest_stop, _seconds(environment.get("STOP_GRACE", ""))
    if needs > grace:
        raise ConfigError(
            f"TASKMILL_DRAIN, TASKMILL_LEASE: expected that a worker stops within {grace:.0f} s, and it may take "
            f"{needs:.0f} s: make x-grace in docker-compose.prod.yml longer"
        )


def _is_own(host: str | None) -> bool:
    return host is not None and (host in ("localhost", "::1") or host.startswith("127."))


def _seconds(duration: str) -> float:
    """`150s` or `2m30s`, as Compose has it."""
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", duration))


if __name__ == "__main__":
    found = list(dict.fromkeys(complaints(os.environ)))
    for line in found:
        print(f".env.prod: {line}", file=sys.stderr)
    sys.exit(2 if found else 0)
