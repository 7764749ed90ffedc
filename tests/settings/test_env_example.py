""".env.example has every variable with its default, makes no installation of its own, and passes no check of production."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from dotenv import dotenv_values

from deploy.compose.settings import complaints
from taskmill.settings import Settings, setting_names
from tests.support import ROOT

TEXT = (ROOT / ".env.example").read_text(encoding="utf-8")
SET = {name: value or "" for name, value in dotenv_values(stream=io.StringIO(TEXT)).items()}
LEFT_OUT = dict(re.findall(r"^# ([A-Z_0-9]+)=(.*)$", TEXT, flags=re.MULTILINE))
OF_CONTAINERS = {
    "MYSQL_DATABASE",
    "MYSQL_USER",
    "MYSQL_PASSWORD",
    "MYSQL_ROOT_PASSWORD",
    "GF_SECURITY_ADMIN_PASSWORD",
}
OF_ITS_OWN = "0123456789abcdef" * 3
GOOD = {
    "APP_ENV": "production",
    "STOP_GRACE": "150s",
    "DATABASE_URL": f"mysql://taskuser:{OF_ITS_OWN}@mysql:3306/taskqueue",
    "REDIS_HOST": "redis",
    "JWT_SECRET": OF_ITS_OWN[::-1],
    "MYSQL_PASSWORD": OF_ITS_OWN,
    "MYSQL_ROOT_PASSWORD": OF_ITS_OWN[1:],
    "GF_SECURITY_ADMIN_PASSWORD": OF_ITS_OWN[2:],
}
"""What .env.prod changes of it, and what docker-compose.prod.yml adds."""


def told(monkeypatch: pytest.MonkeyPatch, **changes: str) -> list[str]:
    """What deploy/compose/settings.py says of .env.example with the changes of GOOD, and then with these."""
    environment = SET | GOOD | changes
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return list(complaints(environment))


def test_every_variable_is_there_once() -> None:
    """Those of the settings, and of the containers beside them."""
    ours = {name for names in setting_names().values() for name in names}
    assert {*SET, *LEFT_OUT} == ours | OF_CONTAINERS
    assert not {*SET} & {*LEFT_OUT}


def test_what_is_left_out_has_this_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """And so have the lines that are set, but for the database and the app."""
    default = Settings.load()
    for name, value in ({**SET, **LEFT_OUT}).items():
        if name not in OF_CONTAINERS | {"DATABASE_URL", "TASKMILL_APP"}:
            monkeypatch.setenv(name, value)
    assert Settings.load().model_dump() == default.model_dump()


def test_a_copy_of_it_is_for_development(tmp_path: Path) -> None:
    """On the MySQL and the Redis that docker-compose.yml publishes, and nothing in it looks like a mistake."""
    (tmp_path / ".env").write_text(TEXT)
    settings = Settings.load()
    assert settings.database_url == "mysql://taskuser:taskpass@localhost:3306/taskqueue"
    assert settings.redis_url == "redis://localhost:6379/0"
    assert [warning for warning in settings.warnings() if "MYSQL" in warning or "GF_" in warning] == []


def test_unchanged_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything starts, each thing in one line, and no value in it but the names of hosts."""
    unchanged = {name: SET.get(name, "") for name in GOOD} | {"APP_ENV": "production", "STOP_GRACE": "150s"}
    lines = told(monkeypatch, **unchanged)
    for name in (
        *OF_CONTAINERS - {"MYSQL_DATABASE", "MYSQL_USER"},
        "DATABASE_URL",
        "REDIS_HOST",
        "JWT_SECRET",
    ):
        assert any(line.startswith(f"{name}: expected ") for line in lines), name
    assert not any("taskpass" in line or "rootpass" in line or "\n" in line for line in lines)


def test_made_ones_own_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the changes that its comments ask for."""
    assert told(monkeypatch) == []


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("DATABASE_URL", "", "DATABASE_URL: expected mysql://"),
        ("DATABASE_URL", GOOD["DATABASE_URL"].replace("@mysql", "@127.0.0.1"), "DATABASE_URL: expected the host"),
        ("REDIS_HOST", "", "REDIS_HOST: expected redis"),
        ("REDIS_URL", "redis://localhost:6379/0", "REDIS_HOST: expected redis"),
        ("MYSQL_PASSWORD", "another", "MYSQL_PASSWORD: expected the same as in DATABASE_URL"),
        ("MYSQL_USER", "another", "MYSQL_USER: expected the same as in DATABASE_URL"),
        ("MYSQL_DATABASE", "another", "MYSQL_DATABASE: expected the same as in DATABASE_URL"),
        ("MYSQL_ROOT_PASSWORD", "", "MYSQL_ROOT_PASSWORD: expected a password"),
        ("GF_SECURITY_ADMIN_PASSWORD", "change-me", "GF_SECURITY_ADMIN_PASSWORD: expected a password of your own"),
        ("JWT_SECRET", "your-jwt-secret-of-32-bytes-or-more", "JWT_SECRET: expected "),
        ("JWT_SECRET", "short", "JWT_SECRET: expected "),
        ("TASKMILL_APP", "", "--app (or TASKMILL_APP): expected "),
        ("TASKMILL_DRAIN", "60", "TASKMILL_DRAIN, TASKMILL_LEASE: expected that a worker stops within 150 s"),
        ("STOP_GRACE", "2m", "TASKMILL_DRAIN, TASKMILL_LEASE: expected that a worker stops within 120 s"),
        ("PORT", "x", "PORT: expected "),
    ],
)  # fmt: skip
def test_what_production_refuses(
    name: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thing wrong is one line."""
    (line,) = told(monkeypatch, **{name: value})
    assert line.startswith(expected)


def test_a_server_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose user the container mysql does not make."""
    url = GOOD["DATABASE_URL"].replace("@mysql", "@db.example.com")
    assert told(monkeypatch, DATABASE_URL=url, REDIS_URL="redis+cluster://a.example.com,b.example.com") == []
