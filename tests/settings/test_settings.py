"""Settings: names, defaults, forms, one line for each mistake, no secret in any of them."""

from __future__ import annotations

import os
import stat
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from taskmill.errors import ConfigError
from taskmill.handlers.options import HandlerOptions
from taskmill.settings import DEVELOPMENT_APP, Settings, setting_names
from tests.settings.kit import GOOD_SECRET, load, refusal

# -- names and defaults ----------------------------------------------------------------------------------

# SEED.md's table, the database URL apart: not set, ours is embedded.
DEFAULTS = {
    "REDIS_HOST": "localhost",
    "REDIS_PORT": 6379,
    "JWT_EXPIRATION": timedelta(days=1),
    "PORT": 3000,
    "APP_ENV": "development",
    "QUEUE_CONCURRENCY": 5,
    "MAX_RETRY_ATTEMPTS": 3,
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_defaults_of_the_description(name: str) -> None:
    """Each name of SEED.md's table is a setting with the default that stands there."""
    (field,) = [field for field, names in setting_names().items() if name in names]
    assert getattr(load(), field) == DEFAULTS[name]


def test_every_name_is_known_or_ours() -> None:
    """Beside the names of SEED.md and a few that everybody knows, all begin with TASKMILL_."""
    names = [name for names in setting_names().values() for name in names]
    others = {name for name in names if not name.startswith("TASKMILL_")}
    assert others == {
        *DEFAULTS,
        "NODE_ENV",
        "DATABASE_URL",
        "REDIS_URL",
        "JWT_SECRET",
        "JWT_SECRET_PREVIOUS",
        "NO_COLOR",
    }
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("environment", "field", "value"),
    [
        ({"NODE_ENV": "production"}, "environment", "production"),
        ({"NODE_ENV": "production", "APP_ENV": "test"}, "environment", "test"),
        ({"NODE_ENV": "production", "APP_ENV": ""}, "environment", "production"),
        ({"APP_ENV": "Production"}, "environment", "production"),
        ({"PORT": ""}, "port", 3000),
        ({"JWT_EXPIRATION": "30s"}, "jwt_expiration", timedelta(seconds=30)),
        ({"JWT_EXPIRATION": "15m"}, "jwt_expiration", timedelta(minutes=15)),
        ({"JWT_EXPIRATION": "12h"}, "jwt_expiration", timedelta(hours=12)),
        ({"JWT_EXPIRATION": "1d"}, "jwt_expiration", timedelta(days=1)),
        ({"TASKMILL_QUEUES": "mail, video,mail"}, "queues", ("mail", "video")),
        ({"TASKMILL_WEBHOOK_ALLOW_PRIVATE": "true"}, "webhook_allow_private", True),
        ({"TASKMILL_ALLOWED_ORIGINS": "https://A.example/"}, "allowed_origins", ("https://a.example",)),
        ({"TASKMILL_ALLOWED_HOSTS": "A.example., *.b.example"}, "known_hosts", ("a.example", "*.b.example")),
        ({}, "known_hosts", ("localhost", "*.localhost")),
        ({"TASKMILL_HOST": "::1"}, "known_hosts", ("localhost", "*.localhost")),
        ({"TASKMILL_HOST": "0.0.0.0"}, "known_hosts", ()),
        ({"TASKMILL_ALLOWED_HOSTS": "*"}, "known_hosts", ()),
        ({"APP_ENV": "production", "TASKMILL_HOST": "127.0.0.1"}, "known_hosts", ()),
        (
            {"TASKMILL_TRUSTED_PROXIES": "10.0.0.0/8, ::1"},
            "trusted_proxies",
            (ip_network("10.0.0.0/8"), ip_network("::1/128")),
        ),
        ({"TASKMILL_RATE_USER": "0"}, "rate_user", 0),
        ({"DATABASE_URL": "mysql://u:p%40ss@h:3307/db"}, "database", "mysql://u:p%40ss@h:3307/db"),
        ({"DATABASE_URL": "mysql://u:p@ss@h/db"}, "database", "mysql://u:p%40ss@h/db"),
        ({"DATABASE_URL": "mysql://u:p:s@[::1]/db"}, "database", "mysql://u:p%3As@[::1]/db"),
        ({"DATABASE_URL": "sqlite:////abs/x.db"}, "database", "sqlite:////abs/x.db"),
        ({"DATABASE_URL": "mysql://u:p@h:3306/db"}, "redis_url", "redis://localhost:6379/0"),
        ({"DATABASE_URL": "mysql://h/d", "REDIS_HOST": "r", "REDIS_PORT": "7"}, "redis_url", "redis://r:7/0"),
        ({"DATABASE_URL": "mysql://h/d", "REDIS_URL": "redis://:p@q/1"}, "redis_url", "redis://:p@q/1"),
        ({"DATABASE_URL": "mysql://h/d", "TASKMILL_INDEX": "none"}, "redis_url", None),
        ({"REDIS_HOST": "elsewhere"}, "redis_url", None),
        ({}, "embedded_index", True),
        ({"REDIS_URL": "redis://h"}, "embedded_index", False),
        ({"TASKMILL_INDEX": "none"}, "embedded_index", False),
        ({"DATABASE_URL": "mysql://h/d"}, "embedded_index", False),
        ({}, "api_host", "127.0.0.1"),
        ({"APP_ENV": "production"}, "api_host", "0.0.0.0"),
        ({"APP_ENV": "production", "TASKMILL_HOST": "::1"}, "api_host", "::1"),
        ({}, "app_name", DEVELOPMENT_APP),
        ({"TASKMILL_APP": "shop.jobs:app", "APP_ENV": "production"}, "app_name", "shop.jobs:app"),
    ],
    ids=str,
)
def test_values_are_read(environment: dict[str, str], field: str, value: Any) -> None:
    """What is written in the environment comes out as the layers need it."""
    assert getattr(load(**environment), field) == value


def test_paths_are_absolute(tmp_path: Path) -> None:
    """Data lies below the working folder, and a child that works elsewhere finds it."""
    assert load().database_url == f"sqlite:///{tmp_path}/.taskmill/taskmill.db"
    assert load(DATABASE_URL="sqlite:///x.db").database == f"sqlite:///{tmp_path}/x.db"
    assert load(TASKMILL_DATA="d").media_folder == tmp_path / "d" / "media"


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://u:p@h:1/2",
        "rediss://h:1",
        "unix:///run/x.sock?db=1",
        "redis+sentinel://u:p@a:1,b:2/main/0",
        "rediss+cluster://a,b",
    ],
)
def test_every_form_of_an_index_is_taken(url: str) -> None:
    """The forms of index/connect.py pass unchanged."""
    assert load(REDIS_URL=url).redis == url


# -- mistakes --------------------------------------------------------------------------------------------

WRONG = [
    ("PORT", ["0", "65536", "abc", "3000.5", "-1", "1e9", "٣٠٠٠x"]),
    ("QUEUE_CONCURRENCY", ["0", "-1", "1e9", "1000000000", "abc"]),
    ("MAX_RETRY_ATTEMPTS", ["-1", "1001"]),
    ("JWT_EXPIRATION", ["1", "1w", "d", "0s", "-1d", "1.5h", "9999999999d", "99999999d"]),
    ("APP_ENV", ["prod"]),
    ("NODE_ENV", ["staging"]),
    ("REDIS_PORT", ["0", "x"]),
    ("REDIS_HOST", ["a b", "a/b", "redis://x"]),
    ("TASKMILL_LEASE", ["nan", "inf", "0", "x"]),
    ("TASKMILL_QUEUES", [",", "a b", "ü", "a,,b", "a:b"]),
    ("TASKMILL_APP", ["app", "a.b", ":app", "a:b:c", "../x:app"]),
    ("TASKMILL_INDEX", ["redis"]),
    ("TASKMILL_INDEX_PREFIX", ["a{b}"]),
    ("TASKMILL_LOG_LEVEL", ["loud"]),
    ("TASKMILL_SMTP_FROM", ["nobody", "a@b\r\nBcc: x@y"]),
    ("TASKMILL_WEBHOOK_ALLOW_PRIVATE", ["perhaps"]),
    ("TASKMILL_ALLOWED_ORIGINS", ["*", "example.com", "https://a/b"]),
    ("TASKMILL_ALLOWED_HOSTS", ["https://a", "a:80", "a,,b", "*a", "a.*", "a b"]),
    ("TASKMILL_TRUSTED_PROXIES", ["proxy", "10.0.0.1/8", "10.0.0.0/33", "*", "10.0.0.1,"]),
    ("TASKMILL_RATE_USER", ["-1", "1.5", "many"]),
    ("TASKMILL_DATA", [" "]),
    (
        "DATABASE_URL",
        ["postgres://u:p@h/d", "mysql://u:p@h", "mysql:///d", "mysql://u:p@h:x/d", "mysql://u:p@h:70000/d", "sqlite://"]
        + ["sqlite:///", "sqlite:///:memory:", "sqlite:x.db", "file:./dev.db", "mysql://u:p@h/d?connection_limit=5", "x"],
    ),
    ("REDIS_URL", ["h:6379", "http://h", "redis://", "redis://h:x", "redis://h/x", "unix://x", "redis+sentinel://"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG for value in values])
def test_a_wrong_value_is_one_line_that_names_the_setting(name: str, value: str) -> None:
    """It begins with the name and says what is expected."""
    text = refusal(**{name: value})
    assert text.startswith(f"{name}: expected ")
    assert "\n" not in text
    assert len(text) < 250


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://user:hunter2@host:x/db"),
        ("DATABASE_URL", "mysql://user:hunter2/x#?@host/db"),
        ("REDIS_URL", "redis://:hunter2@host:x/0"),
    ],
)
def test_a_password_is_never_shown(name: str, value: str) -> None:
    """Not in the refusal of a value, not when settings are printed."""
    assert "hunter2" not in refusal(**{name: value})
    settings = load(
        DATABASE_URL="mysql://u:hunter2@h/d", JWT_SECRET="hunter2", REDIS_URL="redis://:hunter2@h",
        TASKMILL_SMTP_PASSWORD="hunter2",
    )  # fmt: skip
    assert "hunter2" not in f"{settings!r} {settings} {settings.sql_options()!r}"


def test_all_wrong_settings_are_named() -> None:
    """The first with what is expected, the others by name, still in one line."""
    text = refusal(PORT="x", QUEUE_CONCURRENCY="0", TASKMILL_LEASE="y")
    assert text.startswith("PORT: expected ")
    assert text.endswith("(also wrong: QUEUE_CONCURRENCY, TASKMILL_LEASE)")


@pytest.mark.parametrize(
    "environment",
    [
        {"TASKMILL_BACKOFF_BASE": "10", "TASKMILL_BACKOFF_CAP": "5"},
        {"TASKMILL_INDEX_TIMEOUT": "5", "TASKMILL_INDEX_HOLD": "5"},
        {"TASKMILL_SMTP_USER": "me"},
    ],
    ids=str,
)
def test_what_is_wrong_together(environment: dict[str, str]) -> None:
    """Values that are right alone and wrong together are one line too."""
    assert refusal(**environment).startswith("TASKMILL_")


def test_a_flag_wins_and_its_mistake_names_the_flag() -> None:
    """What the command line gives is checked like the variable, under its own name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORT", "4000")
        assert Settings.load(port="5000").port == 5000
        assert Settings.load(port=None).port == 4000
    with pytest.raises(
        ConfigError, match="--concurrency: expected a whole number from 1 to 10000, got 'abc'"
    ):
        Settings.load(concurrency="abc")
    with pytest.raises(ConfigError, match="--name: expected"):
        Settings.load(worker_name="a b")


# -- .env ------------------------------------------------------------------------------------------------


def test_the_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    """`.env` of the working folder, below the environment."""
    (tmp_path / ".env").write_text("# mine\nPORT=4000\nexport QUEUE_CONCURRENCY='7'\nREDIS_PORT=\n")
    settings = load(QUEUE_CONCURRENCY="8")
    assert (settings.port, settings.concurrency, settings.redis_port) == (4000, 8, 6379)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"PORT=1\n\nthis is no line\n", ".env: line 3: expected NAME=value"),
        (b"PORT\n", ".env: line 1: expected NAME=value"),
        (b"\xff\xfe", ".env: expected text in UTF-8"),
        (b"PORT=x\n", "PORT: expected a whole number"),
        (b"x=" + b"y" * 1024 * 1024, ".env: expected at most 1 MB"),
        (None, ".env: cannot be read: is a directory"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_wrong_file_is_one_line(content: bytes | None, expected: str, tmp_path: Path) -> None:
    """It names the file and the line, or the setting."""
    file = tmp_path / ".env"
    file.mkdir() if content is None else file.write_bytes(content)
    assert refusal().startswith(expected)


# -- warnings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "file", "expected"),
    [
        ({"TASKMILL_LEAES": "3"}, "", ["TASKMILL_LEAES is not a setting: did you mean TASKMILL_LEASE?"]),
        ({"taskmill_lease": "3"}, "", ["taskmill_lease is not a setting: did you mean TASKMILL_LEASE?"]),
        ({"TASKMILL_PORT": "3"}, "", ["TASKMILL_PORT is not a setting: did you mean PORT?"]),
        ({"TASKMILL_XYZZY": "3"}, "", ["TASKMILL_XYZZY is not a setting"]),
        ({}, "DATABSE_URL=x", ["DATABSE_URL is not a setting: did you mean DATABASE_URL?"]),
        ({}, "SHOP_COLOUR=x", []),
        ({"DATABSE_URL": "x"}, "", []),
        ({"JWT_SECRET": "short"}, "", ["JWT_SECRET is short: production needs 32 bytes"]),
        ({"JWT_SECRET": "short", "APP_ENV": "production"}, "", []),
        ({"JWT_SECRET": GOOD_SECRET, "TASKMILL_LEASE": "3"}, "", []),
    ],
    ids=str,
)
def test_likely_mistakes_are_told(
    environment: dict[str, str],
    file: str,
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name that no setting has, with the one that was meant; foreign names of the shell are left alone."""
    for name in [name for name in os.environ if name.startswith("TASKMILL_")]:
        monkeypatch.delenv(name)
    (tmp_path / ".env").write_text(file)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings.load().warnings() == expected


# -- what the layers get ---------------------------------------------------------------------------------


def test_production_refuses_a_missing_app() -> None:
    """The demonstration handlers are nothing for production."""
    with pytest.raises(ConfigError, match="--app"):
        _ = load(APP_ENV="production").app_name


def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    """TASKMILL_DATA may be a folder that is shared."""
    tmp_path.chmod(0o755)
    load(TASKMILL_DATA=str(tmp_path)).data_folder()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    """A file stands in the way."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="TASKMILL_DATA: expected a folder that can be made"):
        load(TASKMILL_DATA=str(tmp_path / "file" / "x")).data_folder()


def test_options_of_the_layers_are_filled() -> None:
    """Each number arrives where it is used."""
    settings = load(
        DATABASE_URL="mysql://h/d", TASKMILL_POOL_SIZE="3", TASKMILL_LEASE="2", MAX_RETRY_ATTEMPTS="9",
        TASKMILL_BACKOFF_BASE="0.5", TASKMILL_INDEX_PREFIX="p", TASKMILL_INDEX_HOLD="7", PORT="4000",
    )  # fmt: skip
    tasks, index, api = settings.task_options(), settings.index_options("redis://h"), settings.api_options()
    assert (settings.sql_options().url, settings.sql_options().pool_size) == ("mysql://h/d", 3)
    assert (tasks.lease, tasks.policy.max_retries, tasks.policy.backoff.base) == (2, 9, 0.5)
    assert (index.url, index.prefix, index.hold) == ("redis://h", "p", 7)
    assert (api.port, api.development) == (4000, True)


def test_options_of_worker_and_scheduler_are_filled() -> None:
    """And failed tasks are kept unless a setting says otherwise."""
    settings = load(
        TASKMILL_LEASE="2", TASKMILL_DRAIN="3", TASKMILL_RUN_TIMEOUT="4", TASKMILL_QUEUES="a", TASKMILL_APP="m:a",
        TASKMILL_LOG_LEVEL="debug", TASKMILL_RESCUE="0.5", TASKMILL_VERIFY_GRACE="0.2", TASKMILL_KEEP_COMPLETED_DAYS="7",
    )  # fmt: skip
    worker, upkeep = settings.worker_options(), settings.upkeep_options()
    assert (worker.lease, worker.drain, worker.timeout, worker.queues) == (2, 3, 4, ("a",))
    assert (worker.app, worker.log_level) == ("m:a", "DEBUG")
    assert (upkeep.rescue, upkeep.verify_grace, upkeep.retain_completed_days) == (0.5, 0.2, 7)
    assert upkeep.retain_failed_days is None
    assert load(TASKMILL_KEEP_FAILED_DAYS="9").upkeep_options().retain_failed_days == 9


def test_handlers_get_their_options_through_the_environment(tmp_path: Path) -> None:
    """What settings say arrives in a runner, which imports no settings."""
    options = load(
        TASKMILL_SMTP_HOST="mail.example", TASKMILL_SMTP_USER="u", TASKMILL_SMTP_PASSWORD="hunter2",
        TASKMILL_WEBHOOK_ALLOW_PRIVATE="yes",
    ).handler_options()  # fmt: skip
    assert options.media == tmp_path / ".taskmill" / "media"
    assert (options.smtp_host, options.smtp_password, options.webhook_allow_private) == (
        "mail.example",
        "hunter2",
        True,
    )
    assert HandlerOptions.read(options.environment()) == options
    assert "hunter2" not in repr(options)
